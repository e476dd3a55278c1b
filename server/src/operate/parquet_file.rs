//! A Parquet file of points: one row group a slice, six plain columns. The only place that knows the parquet crate.

use std::io::{Error, Write};
use std::sync::Arc;

use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

use super::export::Rows;

const SCHEMA: &str = "message points {
    REQUIRED INT64 time (TIMESTAMP(MILLIS, true));
    REQUIRED BINARY host (UTF8);
    REQUIRED BINARY entity (UTF8);
    REQUIRED BINARY metric (UTF8);
    REQUIRED BINARY instance (UTF8);
    REQUIRED DOUBLE value;
}";

/// A file being written.
pub(super) struct ParquetFile<W: Write + Send>(SerializedFileWriter<W>);

impl<W: Write + Send> ParquetFile<W> {
    pub(super) fn new(file: W) -> std::io::Result<Self> {
        let schema = Arc::new(parse_message_type(SCHEMA).map_err(failed)?);
        let compression = Compression::ZSTD(ZstdLevel::default());
        let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
        SerializedFileWriter::new(file, schema, properties).map(Self).map_err(failed)
    }

    pub(super) fn write(&mut self, rows: &Rows) -> std::io::Result<()> {
        if rows.at_ms.is_empty() {
            return Ok(());
        }
        let mut write = || {
            let mut group = self.0.next_row_group()?;
            let mut column = group.next_column()?.ok_or_else(missing)?;
            column.typed::<Int64Type>().write_batch(&rows.at_ms, None, None)?;
            column.close()?;
            for texts in [&rows.host, &rows.entity, &rows.metric, &rows.instance] {
                write_texts(&mut group, texts)?;
            }
            let mut column = group.next_column()?.ok_or_else(missing)?;
            column.typed::<DoubleType>().write_batch(&rows.value, None, None)?;
            column.close()?;
            group.close().map(drop)
        };
        write().map_err(failed)
    }

    pub(super) fn finish(self) -> std::io::Result<W> {
        self.0.into_inner().map_err(failed)
    }
}

fn write_texts<W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    texts: &[Arc<str>],
) -> Result<(), ParquetError> {
    let values: Vec<ByteArray> = texts.iter().map(|text| ByteArray::from(text.as_bytes().to_vec())).collect();
    let mut column = group.next_column()?.ok_or_else(missing)?;
    column.typed::<ByteArrayType>().write_batch(&values, None, None)?;
    column.close()
}

fn missing() -> ParquetError {
    ParquetError::General("a column of the schema is missing".into())
}

fn failed(error: ParquetError) -> Error {
    match error {
        ParquetError::External(inner) => Error::other(inner),
        other => Error::other(other.to_string()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::RowAccessor;

    #[test]
    fn a_reader_finds_every_point_again() {
        let text = |text: &str| Arc::<str>::from(text);
        let rows = |from: i64| Rows {
            at_ms: (from..from + 500).collect(),
            host: vec![text("plant-3"); 500],
            entity: vec![text("数据库"); 500],
            metric: vec![text("cpu_used"); 500],
            instance: vec![text(""); 500],
            value: (from..from + 500).map(|at_ms| at_ms as f64 / 7.0).collect(),
        };
        let path = tempfile::tempdir().unwrap().keep().join("points.parquet");
        let mut file = ParquetFile::new(std::fs::File::create(&path).unwrap()).unwrap();
        for from in [0, 500] {
            file.write(&rows(from)).unwrap();
            file.write(&Rows::default()).unwrap();
        }
        file.finish().unwrap();
        let reader = SerializedFileReader::new(std::fs::File::open(&path).unwrap()).unwrap();
        assert_eq!(reader.metadata().num_row_groups(), 2);
        let mut number = 0;
        for row in reader.get_row_iter(None).unwrap() {
            let row = row.unwrap();
            assert_eq!(row.get_timestamp_millis(0).unwrap(), number);
            assert_eq!(row.get_string(2).unwrap(), "数据库");
            assert_eq!(row.get_double(5).unwrap().to_bits(), (number as f64 / 7.0).to_bits());
            number += 1;
        }
        assert_eq!(number, 1000);
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
}
