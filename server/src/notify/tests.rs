//! Promises of the whole room against real loopback receivers, and the golden texts.
