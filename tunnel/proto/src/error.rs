//! How errors are put into words.

use std::error::Error;
use std::fmt::Write;

/// An error and all its causes in one line, outermost first: `Display` of this library's errors
/// prints one level only.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a String cannot fail.
        let _ = write!(line, ": {error}");
        cause = error.source();
    }
    line
}
