//! The last values of a host as its state keeps them: small, because they are written with every block.
//!
//! Pure: values in, bytes out.

use forewarn_common::block::{DecodeError, LastValue, Reader, Writer, scale, unscale};
use forewarn_common::id::EntityId;
use forewarn_common::limit;
use forewarn_common::metric::Id;

/// Begins what this release writes; the first byte of older rows is their count, which is not 0.
const PACKED: u8 = 0;

/// Values in their order; those of one entity that follow each other name it once.
pub(super) fn encode(values: &[LastValue]) -> Vec<u8> {
    let values = &values[..values.len().min(limit::SERIES_MAX)];
    let mut writer = Writer::default();
    writer.u8(PACKED);
    for run in values.chunk_by(|a, b| a.entity == b.entity) {
        let Some(first) = run.first() else { continue };
        writer.u64(first.entity.0);
        writer.varint(run.len() as u64);
        for value in run {
            let decimals = value.metric.spec().decimals;
            let exact = scale(value.value, decimals)
                .filter(|scaled| unscale(*scaled, decimals).to_bits() == value.value.to_bits());
            writer.varint((value.metric as u64) << 1 | u64::from(exact.is_some()));
            writer.text(&value.instance, limit::NAME_BYTES_MAX);
            match exact {
                Some(scaled) => writer.signed(scaled),
                None => writer.f64(value.value),
            }
        }
    }
    writer.into_bytes()
}

/// The values again; those of metrics that this release does not know are passed over.
pub(super) fn decode(bytes: &[u8]) -> Result<Vec<LastValue>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let mut values = Vec::new();
    if reader.is_empty() {
        return Ok(values);
    }
    if bytes.first() != Some(&PACKED) {
        return decode_plain(reader);
    }
    reader.u8("last values")?;
    let mut count = 0;
    while !reader.is_empty() {
        let entity = EntityId(reader.u64("last value")?);
        let run = reader.count("last values", limit::SERIES_MAX - count)?;
        count += run;
        for _ in 0..run {
            let code = reader.varint("last value")?;
            let instance = reader.text("last value", limit::NAME_BYTES_MAX)?;
            let metric = u16::try_from(code >> 1).ok().and_then(Id::from_code);
            let decimals = metric.map_or(0, |metric| metric.spec().decimals);
            let value = match code & 1 {
                1 => unscale(reader.signed("last value")?, decimals),
                _ => reader.f64("last value")?,
            };
            if let Some(metric) = metric {
                values.push(LastValue { entity, metric, instance, value });
            }
        }
    }
    Ok(values)
}

/// What older releases wrote.
fn decode_plain(mut reader: Reader<'_>) -> Result<Vec<LastValue>, DecodeError> {
    let mut values = Vec::new();
    for _ in 0..reader.count("last values", limit::SERIES_MAX)? {
        let entity = EntityId(reader.u64("last value")?);
        let code = reader.varint("last value")?;
        let instance = reader.text("last value", limit::NAME_BYTES_MAX)?;
        let value = reader.f64("last value")?;
        if let Some(metric) = u16::try_from(code).ok().and_then(Id::from_code) {
            values.push(LastValue { entity, metric, instance, value });
        }
    }
    Ok(values)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use forewarn_common::metric::CATALOGUE;
    use proptest::prelude::*;

    fn values() -> impl Strategy<Value = Vec<LastValue>> {
        let value = prop_oneof![any::<f64>(), (-5_000_i64..5_000).prop_map(|n| n as f64 / 1000.0), Just(f64::NAN)];
        let one = (0_u64..4, 0..CATALOGUE.len(), "[a-z/]{0,6}", value);
        proptest::collection::vec(one, 0..60).prop_map(|all| {
            let last = |(entity, index, instance, value): (u64, usize, String, f64)| LastValue {
                entity: EntityId(entity),
                metric: CATALOGUE[index].id,
                instance,
                value,
            };
            all.into_iter().map(last).collect()
        })
    }

    fn plain(values: &[LastValue]) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.varint(values.len() as u64);
        for value in values {
            writer.u64(value.entity.0);
            writer.varint(value.metric as u64);
            writer.text(&value.instance, limit::NAME_BYTES_MAX);
            writer.f64(value.value);
        }
        writer.into_bytes()
    }

    /// By bits, so that what is not a number counts too.
    fn bits(values: &[LastValue]) -> Vec<(u64, u16, String, u64)> {
        values.iter().map(|v| (v.entity.0, v.metric as u16, v.instance.clone(), v.value.to_bits())).collect()
    }

    proptest! {
        #[test]
        fn last_values_come_back_bit_by_bit_from_this_form_and_the_older_one(values in values()) {
            prop_assert_eq!(bits(&decode(&encode(&values)).unwrap()), bits(&values));
            prop_assert_eq!(bits(&decode(&plain(&values)).unwrap()), bits(&values));
        }

        #[test]
        fn damaged_last_values_are_refused_and_never_loop(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = decode(&bytes);
        }
    }
}
