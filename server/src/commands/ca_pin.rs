//! `underpass-server ca-pin`

use anyhow::Result;

use crate::data_dir::DataDir;
use crate::pki::Ca;
use underpass_terminal::show;

pub(crate) fn run(data: &DataDir) -> Result<()> {
    show(Ca::pin(data)?);
    Ok(())
}
