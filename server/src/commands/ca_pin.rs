//! `underpass-server ca-pin`

use anyhow::Result;

use super::terminal::show;
use crate::data_dir::DataDir;
use crate::pki::Ca;

pub(crate) fn run(data: &DataDir) -> Result<()> {
    show(Ca::pin(data)?);
    Ok(())
}
