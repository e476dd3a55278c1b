//! Statements over many rows whose text depends on nothing but how many rows these are, so that a connection prepares
//! each of them once. diesel prepares a batch INSERT of its own anew every time, which costs a database more than the
//! rows do. Only what every block needs; the rest of the room writes diesel's queries.

use diesel::backend::Backend;
use diesel::connection::Connection;
use diesel::mysql::Mysql;
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::result::QueryResult;
use diesel::sqlite::Sqlite;

use super::connection::Conn;

/// Rows of one statement at most; powers of two below it are the others.
const ROWS_MAX_MYSQL: usize = 256;
/// SQLite is a call away, and runs a short statement sooner than a long one.
const ROWS_MAX_SQLITE: usize = 1;

/// An INSERT up to its rows, and what follows them on each engine.
pub(super) struct Text {
    pub(super) head: &'static str,
    pub(super) tail_mysql: &'static str,
    pub(super) tail_sqlite: &'static str,
}

/// The values of one row, in the order of the statement's columns.
pub(super) trait Values<DB: Backend> {
    /// Writes a placeholder a value, commas between them.
    fn bind<'b>(&'b self, out: AstPass<'_, 'b, DB>) -> QueryResult<()>;
}

/// Says which fields of a row are its values, and as what SQL type.
macro_rules! values {
    ($row:ident { $first:ident: $first_type:ty $(, $field:ident: $type:ty)* }) => {
        $crate::store::many::values!(@ diesel::mysql::Mysql, $row { $first: $first_type $(, $field: $type)* });
        $crate::store::many::values!(@ diesel::sqlite::Sqlite, $row { $first: $first_type $(, $field: $type)* });
    };
    (@ $engine:ty, $row:ident { $first:ident: $first_type:ty $(, $field:ident: $type:ty)* }) => {
        impl $crate::store::many::Values<$engine> for $row<'_> {
            fn bind<'b>(
                &'b self,
                mut out: diesel::query_builder::AstPass<'_, 'b, $engine>,
            ) -> diesel::QueryResult<()> {
                out.push_bind_param::<$first_type, _>(&self.$first)?;
                $(
                    out.push_sql(", ");
                    out.push_bind_param::<$type, _>(&self.$field)?;
                )*
                Ok(())
            }
        }
    };
}

pub(super) use values;

struct Many<'a, R> {
    head: &'static str,
    rows: &'a [R],
    tail: &'static str,
}

impl<DB: Backend, R: Values<DB>> QueryFragment<DB> for Many<'_, R> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        out.push_sql(self.head);
        for (index, row) in self.rows.iter().enumerate() {
            out.push_sql(if index == 0 { "(" } else { ", (" });
            row.bind(out.reborrow())?;
            out.push_sql(")");
        }
        out.push_sql(self.tail);
        Ok(())
    }
}

impl<R> QueryId for Many<'_, R> {
    // Known by its text, which is the same for the same number of rows.
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

/// Runs a statement over all rows, in few pieces of few lengths; the engine's count of affected rows.
pub(super) fn write<R: Values<Mysql> + Values<Sqlite>>(
    connection: &mut Conn,
    text: &Text,
    mut rows: &[R],
) -> QueryResult<usize> {
    let mut count = 0;
    while !rows.is_empty() {
        let max = if matches!(connection, Conn::Mysql(_)) { ROWS_MAX_MYSQL } else { ROWS_MAX_SQLITE };
        let (some, rest) = rows.split_at(1 << rows.len().min(max).ilog2());
        count += match connection {
            Conn::Mysql(mysql) => {
                mysql.execute_returning_count(&Many { head: text.head, rows: some, tail: text.tail_mysql })?
            }
            Conn::Sqlite(sqlite) => {
                sqlite.execute_returning_count(&Many { head: text.head, rows: some, tail: text.tail_sqlite })?
            }
        };
        rows = rest;
    }
    Ok(count)
}

/// How many rows took the place of older ones, by the count of a statement that inserted none: MySQL counts such a row
/// twice, and once when it was left as it was.
pub(super) fn is_changed(connection: &Conn, affected: usize, rows: usize) -> bool {
    match connection {
        Conn::Mysql(_) => affected == 2 * rows,
        Conn::Sqlite(_) => affected == rows,
    }
}
