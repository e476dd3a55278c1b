//! The words the rooms of the server share. Plain data: no I/O, no clock, no arithmetic.

pub mod forecast;
