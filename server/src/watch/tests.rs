//! Promises of the judgement in virtual time.
