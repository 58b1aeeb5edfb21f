//! `underpass-server ca-pin`

use anyhow::Result;

use crate::data_dir::DataDir;
use crate::pki::Ca;

pub(crate) fn run(data: &DataDir) -> Result<()> {
    println!("{}", Ca::pin(data)?);
    Ok(())
}
