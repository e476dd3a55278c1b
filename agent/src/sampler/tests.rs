//! Promises of the sampler: fixture trees for both cgroup versions, and this machine's own `/proc`.
