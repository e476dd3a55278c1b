//! Promises of the tailer.
