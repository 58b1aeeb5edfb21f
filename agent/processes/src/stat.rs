//! proc_pid_stat(5).

/// The state of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Whether it has ended and waits to be reaped.
    pub is_dead: bool,
    /// The number of its parent.
    pub parent: i32,
    /// The number of its session's leader.
    pub session: i32,
    /// When it began, in clock ticks since the system did. With its number it names a process for good.
    pub started: u64,
}

impl Stat {
    /// The second field is a name in parentheses, which may have any characters.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let (_, fields) = text.rsplit_once(')')?;
        let fields: Vec<_> = fields.split_whitespace().collect();
        let field = |number: usize| fields.get(number.checked_sub(3)?).copied();
        Some(Self {
            is_dead: matches!(field(3)?, "Z" | "X"),
            parent: field(4)?.parse().ok()?,
            session: field(6)?.parse().ok()?,
            started: field(22)?.parse().ok()?,
        })
    }
}
