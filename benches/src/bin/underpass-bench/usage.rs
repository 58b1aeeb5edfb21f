//! The processor time and memory of processes, from `/proc`.

use std::fs;
use std::io;
use std::time::Duration;

/// Clock ticks in a second, in what the kernel tells user space: the same on every architecture that
/// Linux runs on today.
const TICKS: u64 = 100;

/// The usage of a process and of its living descendants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Processor time of user and kernel; it moves in steps of 10 ms.
    pub(crate) cpu: Duration,
    /// Resident memory, in bytes.
    pub(crate) resident: u64,
    /// The most that was resident, in bytes: the sum of each process's own.
    pub(crate) peak: u64,
}

impl Usage {
    /// Of the process `id` and its children.
    ///
    /// # Errors
    /// Where it has ended.
    pub(crate) fn of_tree(id: u32) -> io::Result<Self> {
        let mut sum = Self::of_one(id)?;
        for child in children(id) {
            // One that ended meanwhile is in its parent's time, if that has waited for it.
            sum = sum + Self::of_tree(child).unwrap_or_default();
        }
        Ok(sum)
    }

    fn of_one(id: u32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{id}/stat"))?;
        let status = fs::read_to_string(format!("/proc/{id}/status"))?;
        let ticks = ticks(&stat).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self {
            cpu: Duration::from_millis(ticks * 1000 / TICKS),
            resident: kilobytes(&status, "VmRSS").unwrap_or_default(),
            peak: kilobytes(&status, "VmHWM").unwrap_or_default(),
        })
    }
}

impl std::iter::Sum for Usage {
    fn sum<I: Iterator<Item = Self>>(each: I) -> Self {
        each.fold(Self::default(), std::ops::Add::add)
    }
}

impl std::ops::Add for Usage {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            cpu: self.cpu + other.cpu,
            resident: self.resident + other.resident,
            peak: self.peak + other.peak,
        }
    }
}

/// The processes that `id` has started and that live.
pub(crate) fn children(id: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{id}/task")) else {
        return Vec::new();
    };
    let lists =
        tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
    lists
        .flat_map(|list| {
            let ids = list.split_ascii_whitespace().map(str::parse);
            ids.filter_map(Result::ok).collect::<Vec<u32>>()
        })
        .collect()
}

/// Processor time that everything on the machine has taken, idleness not counted.
///
/// # Errors
/// Where the kernel does not tell.
pub(crate) fn machine() -> io::Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    let ticks = busy_ticks(&stat).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Duration::from_millis(ticks * 1000 / TICKS))
}

/// Processor time of this process and of all that it started, those that have ended included.
///
/// # Errors
/// Where the kernel does not tell.
pub(crate) fn own() -> io::Result<Duration> {
    let id = std::process::id();
    let stat = fs::read_to_string(format!("/proc/{id}/stat"))?;
    let ended = ticks_of_children(&stat).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Usage::of_tree(id)?.cpu + Duration::from_millis(ended * 1000 / TICKS))
}

/// Fields of `proc_pid_stat(5)` from the third on: the second is a name that may hold anything.
fn fields(stat: &str) -> Option<impl Iterator<Item = &str>> {
    Some(stat.rsplit_once(')')?.1.split_ascii_whitespace())
}

/// utime and stime.
fn ticks(stat: &str) -> Option<u64> {
    sum_of_two(fields(stat)?.skip(11))
}

/// cutime and cstime.
fn ticks_of_children(stat: &str) -> Option<u64> {
    sum_of_two(fields(stat)?.skip(13))
}

fn sum_of_two<'a>(mut fields: impl Iterator<Item = &'a str>) -> Option<u64> {
    let (user, system) = (fields.next()?, fields.next()?);
    Some(user.parse::<u64>().ok()? + system.parse::<u64>().ok()?)
}

/// The first line of `proc_stat(5)` without idle and iowait; guests are in user.
fn busy_ticks(stat: &str) -> Option<u64> {
    let mut numbers = stat
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_ascii_whitespace();
    let mut next = || numbers.next()?.parse::<u64>().ok();
    let (user, nice, system) = (next()?, next()?, next()?);
    let (_idle, _iowait) = (next()?, next()?);
    let (irq, softirq, steal) = (next()?, next()?, next()?);
    Some(user + nice + system + irq + softirq + steal)
}

fn kilobytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let number = line.strip_prefix(':')?.trim().strip_suffix(" kB")?;
    Some(number.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_is_no_field() {
        let stat = "42 (a) b ) S 1 2 3 4 5 6 7 8 9 10 110 20 3 4 15 16";
        assert_eq!(ticks(stat), Some(130));
        assert_eq!(ticks_of_children(stat), Some(7));
        assert_eq!(ticks("42 (short) S 1"), None);
    }

    #[test]
    fn a_machine_is_busy_with_all_but_waiting() {
        let stat = "cpu  1 2 4 1000 2000 8 16 32 64 128\ncpu0 9 9 9\n";
        assert_eq!(busy_ticks(stat), Some(63));
    }

    #[test]
    fn memory_is_read_by_its_name() {
        let status = "VmPeak:\t  9 kB\nVmHWM:\t   300 kB\nVmRSS:\t     2 kB\n";
        assert_eq!(kilobytes(status, "VmHWM"), Some(300 * 1024));
        assert_eq!(kilobytes(status, "VmSwap"), None);
    }

    #[test]
    fn this_process_has_memory_and_what_it_does_is_counted() {
        let before = own().unwrap();
        let begun = std::time::Instant::now();
        while own().unwrap() == before {
            assert!(begun.elapsed() < Duration::from_secs(20), "no time passed");
        }
        assert!(Usage::of_tree(std::process::id()).unwrap().resident > 0);
        assert!(machine().unwrap() >= own().unwrap());
    }
}
