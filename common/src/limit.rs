//! Every limit that both ends hold, unit last in the name, its reason beside it.

/// A pushed block as bytes: 200 containers at 10 s for 30 s are under 100 KiB, a storm of keyword hits adds at most this.
pub const BLOCK_BYTES_MAX: usize = 4 << 20;
/// A section after decompression: four times the bound of a block, so that a bomb ends early and as many as may be in
/// flight at a server stay within its memory.
pub const SECTION_RAW_BYTES_MAX: usize = 16 << 20;
/// Sections of one block; four kinds exist, the rest is room for newer versions.
pub const SECTIONS_MAX: usize = 16;
/// Ticks of one block: an hour at one second.
pub const TICKS_MAX: usize = 3600;
/// Groups of one block: a group is one entity with one layout.
pub const GROUPS_MAX: usize = 8192;
/// Metrics of one layout.
pub const LAYOUT_METRICS_MAX: usize = 2048;
/// Series of one host, over all its groups.
pub const SERIES_MAX: usize = 65_536;
/// Values (series × ticks) of one block.
pub const VALUES_MAX: usize = 4 << 20;
/// Metric names, instances, entity names, attribute keys.
pub const NAME_BYTES_MAX: usize = 256;
/// Attribute values (images and labels may be long).
pub const ATTRIBUTE_BYTES_MAX: usize = 1024;
/// Attributes of one entity.
pub const ATTRIBUTES_MAX: usize = 64;
/// A log line as kept in a sample, after masking; the matcher reads longer ones.
pub const LINE_BYTES_MAX: usize = 2048;
/// Context lines before a hit.
pub const CONTEXT_BEFORE_LINES_MAX: usize = 20;
/// Context lines after a hit.
pub const CONTEXT_AFTER_LINES_MAX: usize = 10;
/// Sampled lines of one hit record (rule × entity × block).
pub const HIT_SAMPLES_MAX: usize = 3;
/// Hit records of one block.
pub const HITS_MAX: usize = 2048;
/// Engine events of one block; a crash loop of a hundred containers stays below.
pub const EVENTS_MAX: usize = 4096;
/// Keyword rules of one agent.
pub const KEYWORD_RULES_MAX: usize = 256;
/// Patterns of one keyword rule.
pub const KEYWORD_PATTERNS_MAX: usize = 64;
/// Compiled size of one regex.
pub const REGEX_BYTES_MAX: usize = 1 << 20;
/// Beyond this much difference between agent and server clock data are stored under corrected time and not judged as fresh.
pub const CLOCK_SKEW_MS_MAX: i64 = 5 * 60 * 1000;
/// JSON bodies of enrolment and of the console's API.
pub const JSON_BYTES_MAX: u64 = 256 << 10;
