//! Layouts and entities: what the columns mean. Sent once, named by hash afterwards.

use super::{DecodeError, Reader, Writer, check};
use crate::id::{EntityId, LayoutId};
use crate::limit;
use crate::metric::{self, Kind, Unit};

/// One column of a layout.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Metric {
    /// Catalogue name, or the name that a scraped endpoint gave.
    pub name: String,
    /// Mount point, device, interface or keyword rule; empty where there is only one.
    pub instance: String,
    /// Gauge or increment.
    pub kind: Kind,
    /// What it counts.
    pub unit: Unit,
    /// Decimal places kept; negative rounds to tens, thousands, …
    pub decimals: i8,
}

impl Metric {
    /// A metric of the catalogue, with an instance or an empty text.
    #[must_use]
    pub fn of(id: metric::Id, instance: &str) -> Self {
        let spec = id.spec();
        Self {
            name: spec.name.to_owned(),
            instance: instance.to_owned(),
            kind: spec.kind,
            unit: spec.unit,
            decimals: spec.decimals,
        }
    }
}

/// The columns of one kind of entity, in order. All containers of a fleet share one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Layout {
    /// The columns.
    pub metrics: Vec<Metric>,
}

impl Layout {
    /// The hash of the encoded metrics.
    #[must_use]
    pub fn id(&self) -> LayoutId {
        LayoutId::of(&self.encode())
    }

    /// The bytes that are hashed, sent and stored.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.varint(self.metrics.len() as u64);
        for metric in &self.metrics {
            writer.text(&metric.name, limit::NAME_BYTES_MAX);
            writer.text(&metric.instance, limit::NAME_BYTES_MAX);
            writer.u8(match metric.kind {
                Kind::Gauge => 0,
                Kind::Increment => 1,
            });
            writer.u8(metric.unit.code());
            writer.signed(i64::from(metric.decimals));
        }
        writer.into_bytes()
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// The bytes are not a layout within the limits.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let layout = Self::read(&mut reader)?;
        if reader.is_empty() { Ok(layout) } else { Err(DecodeError::Malformed("layout")) }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = reader.count("layout", limit::LAYOUT_METRICS_MAX)?;
        let mut metrics = Vec::with_capacity(count);
        for _ in 0..count {
            metrics.push(Metric {
                name: reader.text("metric name", limit::NAME_BYTES_MAX)?,
                instance: reader.text("metric instance", limit::NAME_BYTES_MAX)?,
                kind: match reader.u8("metric kind")? {
                    0 => Kind::Gauge,
                    1 => Kind::Increment,
                    _ => return Err(DecodeError::Malformed("metric kind")),
                },
                unit: Unit::from_code(reader.u8("metric unit")?).ok_or(DecodeError::Malformed("metric unit"))?,
                decimals: i8::try_from(reader.signed("metric decimals")?)
                    .ok()
                    .filter(|decimals| (-9..=9).contains(decimals))
                    .ok_or(DecodeError::Malformed("metric decimals"))?,
            });
        }
        Ok(Self { metrics })
    }
}

/// Host or workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EntityKind {
    /// The machine itself.
    Host,
    /// A container, by compose project, service and replica, else by name; its history outlives the instance.
    Workload,
}

/// What an entity is called and carries. A changed record is sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entity {
    /// Its hash.
    pub id: EntityId,
    /// Host or workload.
    pub kind: EntityKind,
    /// What people call it: hostname, `project/service`, container name.
    pub name: String,
    /// Groups entities; empty when nobody named one.
    pub component: String,
    /// Image, container id, compose project, kernel, … ascending by key.
    pub attributes: Vec<(String, String)>,
}

impl Entity {
    /// The bytes that are sent and stored.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        self.write(&mut writer);
        writer.into_bytes()
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// The bytes are not an entity within the limits.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let entity = Self::read(&mut reader)?;
        if reader.is_empty() { Ok(entity) } else { Err(DecodeError::Malformed("entity")) }
    }

    fn write(&self, writer: &mut Writer) {
        writer.u64(self.id.0);
        writer.u8(match self.kind {
            EntityKind::Host => 0,
            EntityKind::Workload => 1,
        });
        writer.text(&self.name, limit::NAME_BYTES_MAX);
        writer.text(&self.component, limit::NAME_BYTES_MAX);
        let attributes = &self.attributes[..self.attributes.len().min(limit::ATTRIBUTES_MAX)];
        writer.varint(attributes.len() as u64);
        for (key, value) in attributes {
            writer.text(key, limit::NAME_BYTES_MAX);
            writer.text(value, limit::ATTRIBUTE_BYTES_MAX);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let id = EntityId(reader.u64("entity")?);
        let kind = match reader.u8("entity kind")? {
            0 => EntityKind::Host,
            1 => EntityKind::Workload,
            _ => return Err(DecodeError::Malformed("entity kind")),
        };
        let name = reader.text("entity name", limit::NAME_BYTES_MAX)?;
        let component = reader.text("component", limit::NAME_BYTES_MAX)?;
        let count = reader.count("attributes", limit::ATTRIBUTES_MAX)?;
        let mut attributes = Vec::with_capacity(count);
        for _ in 0..count {
            attributes.push((
                reader.text("attribute key", limit::NAME_BYTES_MAX)?,
                reader.text("attribute value", limit::ATTRIBUTE_BYTES_MAX)?,
            ));
        }
        Ok(Self { id, kind, name, component, attributes })
    }
}

/// What the receiver may not know yet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dictionary {
    /// Layouts.
    pub layouts: Vec<Layout>,
    /// Entities.
    pub entities: Vec<Entity>,
}

impl Dictionary {
    /// Whether there is nothing to say.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.layouts.is_empty() && self.entities.is_empty()
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        writer.varint(self.layouts.len() as u64);
        for layout in &self.layouts {
            writer.raw(&layout.encode());
        }
        writer.varint(self.entities.len() as u64);
        for entity in &self.entities {
            entity.write(writer);
        }
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut series = 0;
        let count = reader.count("layouts", limit::GROUPS_MAX)?;
        let mut layouts = Vec::new();
        for _ in 0..count {
            let layout = Layout::read(reader)?;
            series = check("metrics of all layouts", series + layout.metrics.len(), limit::SERIES_MAX)?;
            layouts.push(layout);
        }
        let count = reader.count("entities", limit::GROUPS_MAX)?;
        let mut entities = Vec::new();
        for _ in 0..count {
            entities.push(Entity::read(reader)?);
        }
        Ok(Self { layouts, entities })
    }
}
