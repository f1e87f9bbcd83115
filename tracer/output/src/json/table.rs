//! Tables as JSON, one object a function.

use serde::{Serialize, Serializer, ser::SerializeMap as _};

use super::json_line;
use crate::table::{Cell, Table};

/// Appends the table's lines.
pub(super) fn push_table(table: &Table, out: &mut Vec<u8>) -> std::io::Result<()> {
    (0..table.shown(usize::MAX)).try_for_each(|index| json_line(&Line { table, index }, out))
}

/// A function's line.
struct Line<'a> {
    table: &'a Table,
    index: usize,
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { table, index } = *self;
        let mut line = serializer.serialize_map(None)?;
        line.serialize_entry("type", table.kind)?;
        if table.so_far {
            line.serialize_entry("so_far", &true)?;
        }
        line.serialize_entry("probe", &*table.labels[index])?;
        for column in &table.columns {
            if let (Some(name), Some(cell)) = (column.name, column.cells.get(index))
                && *cell != Cell::None
            {
                line.serialize_entry(name, cell)?;
            }
        }
        line.end()
    }
}

impl Serialize for Cell {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) | Self::Estimate(number) => serializer.serialize_u64(*number),
            Self::Ns(ns) | Self::EstimatedNs(ns) => serializer.serialize_u64(*ns),
            Self::Rate(rate) => serializer.serialize_f64(*rate),
            Self::Share(share) => share.serialize(serializer),
            Self::Durations(buckets) => serializer.collect_seq(buckets.iter().map(|bucket| {
                let to_ns = (bucket.to_ns != u64::MAX).then_some(bucket.to_ns);
                DurationBucket { from_ns: bucket.from_ns, to_ns, count: bucket.count }
            })),
            Self::None => serializer.serialize_none(),
        }
    }
}

#[derive(Serialize)]
struct DurationBucket {
    from_ns: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    to_ns: Option<u64>,
    count: u64,
}
