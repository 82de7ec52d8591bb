//! How much memory there is.

use std::fs::read_to_string;

/// Half of what the process may still take, in bytes: of what is free, of what its control group leaves, and of its own
/// address space (`ulimit -v`). 4 GiB where the system says nothing.
pub(super) fn half_of_free() -> usize {
    let free = left_by_system().unwrap_or(8 << 30);
    let limits = read_to_string("/proc/self/limits").unwrap_or_default();
    let taken = read_to_string("/proc/self/statm").unwrap_or_default();
    let free = free.min(address_space(&limits, &taken).unwrap_or(u64::MAX));
    usize::try_from(free / 2).unwrap_or(usize::MAX)
}

/// The smaller of what is free and of what the control group leaves; `None` where the system says nothing, as without `/proc`.
fn left_by_system() -> Option<u64> {
    let mut system = sysinfo::System::new().ok()?;
    system.refresh_memory();
    let group = system.cgroup_limits().map_or(u64::MAX, |group| group.total_memory.saturating_sub(group.rss));
    (system.total_memory() > 0).then(|| system.available_memory().min(group))
}

/// What is left of the address space, by the texts of `/proc/self`; `None` if it is not limited.
fn address_space(limits: &str, statm: &str) -> Option<u64> {
    const PAGE: u64 = 4096;
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    let limit: u64 = limit.split_whitespace().next()?.parse().ok()?;
    let taken = statm.split_whitespace().next().and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0);
    Some(limit.saturating_sub(taken * PAGE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_space_is_read() {
        let limits = |soft: &str| {
            format!(
                "Limit                     Soft Limit           Hard Limit           Units     \n\
                 Max cpu time              unlimited            unlimited            seconds   \n\
                 Max address space         {soft:<20} unlimited            bytes     \n"
            )
        };
        assert_eq!(address_space(&limits("unlimited"), "300 2 3"), None);
        assert_eq!(address_space(&limits("2097152"), "300 2 3"), Some(2_097_152 - 300 * 4096));
        assert_eq!(address_space(&limits("4096"), "300 2 3"), Some(0));
        assert_eq!(address_space("", ""), None);
    }
}
