//! Housekeeping: pushed blocks become hours, old rows go.
