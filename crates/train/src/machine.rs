//! What this machine has and what this process takes of it, where the system (Linux) tells.

/// Bytes of main memory.
pub fn memory() -> Option<u64> {
    field_in_bytes("/proc/meminfo", "MemTotal:")
}

/// Bytes of main memory that programs can still take without moving others out.
pub fn available_memory() -> Option<u64> {
    field_in_bytes("/proc/meminfo", "MemAvailable:")
}

/// Name of the processor.
pub fn processor() -> Option<String> {
    let text = fs_err::read_to_string("/proc/cpuinfo").ok()?;
    text.lines().find_map(|line| value(line, "model name")).map(str::to_owned)
}

/// The value of a line `name : value`.
fn value<'l>(line: &'l str, name: &str) -> Option<&'l str> {
    Some(line.strip_prefix(name)?.trim_start().strip_prefix(':')?.trim())
}

/// Bytes of memory that this process has now.
pub fn resident() -> Option<u64> {
    field_in_bytes("/proc/self/status", "VmRSS:")
}

/// Bytes of memory that this process had at most, since it began or [`forget_peak`] was called.
pub fn peak() -> Option<u64> {
    field_in_bytes("/proc/self/status", "VmHWM:")
}

/// Begins to count the peak anew; where that is not allowed, the old one stands.
pub fn forget_peak() {
    _ = fs_err::write("/proc/self/clear_refs", "5");
}

/// The value behind `field` in a file of the system, in bytes.
fn field_in_bytes(path: &str, field: &str) -> Option<u64> {
    let text = fs_err::read_to_string(path).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(field))?;
    value.split_whitespace().next()?.parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}
