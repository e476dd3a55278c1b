//! What is done with a site's database as a whole from the command line: backup, restore, verify, move, export.
//!
//! Each may run beside a working server but restore and move, which make a new database. Nothing here judges or sends,
//! and no SQL is written here.

mod export;
mod parquet_file;

use std::path::{Path, PathBuf};

use clap::Args;

pub use export::{ExportArgs, export};

use crate::seal::{Seal, SealError};
use crate::settings::Settings;
use crate::store::archive::{self, Verified};
use crate::store::{Store, StoreError};

/// Name of the site key's fingerprint among the site's values: a backup names by it the key that it needs.
const KEY_VALUE: &str = "site_key";

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum OperateError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The site key.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// A file.
    #[error("{path}: {error}; {advice}")]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
        /// What to do next.
        advice: &'static str,
    },
    /// The site key is not the one that the secrets in the database were sealed with.
    #[error(
        "{path} is site key {have}, but the secrets in this database are sealed with site key {need}: put that key \
         there (it is kept apart from the backups)"
    )]
    Key {
        /// The key file.
        path: PathBuf,
        /// Fingerprint of the key at hand.
        have: String,
        /// Fingerprint of the key that is needed.
        need: String,
    },
    /// Something is damaged.
    #[error("{0} rows are damaged; the others are sound")]
    Damaged(u64),
    /// It cannot be done like this.
    #[error("{0}")]
    Refused(String),
}

/// `backup`
#[derive(Args)]
pub struct BackupArgs {
    /// The file to write; it must not exist.
    #[arg(long)]
    pub to: PathBuf,
}

/// `restore`
#[derive(Args)]
pub struct RestoreArgs {
    /// The backup file.
    #[arg(long)]
    pub from: PathBuf,
}

/// `verify`
#[derive(Args)]
pub struct VerifyArgs {
    /// A backup file, instead of the settings' database.
    #[arg(long)]
    pub file: Option<PathBuf>,
}

/// `move`
#[derive(Args)]
pub struct MoveArgs {
    /// Settings file of the server that goes on: its database.url is the target, which must be empty. A URL is not
    /// taken, because the command line of a process is no place for a password.
    #[arg(long)]
    pub to_config: PathBuf,
}

/// Refuses to work with another site key than the one that the secrets in the database are sealed with; the first key
/// that a database meets is its own.
///
/// # Errors
/// The keys differ, or the database does not answer.
pub async fn check_key(store: &Store, key: &Seal, path: &Path) -> Result<(), OperateError> {
    let have = key.fingerprint();
    let need = store.site_put_if_absent(KEY_VALUE, have.clone().into_bytes()).await?;
    let need = String::from_utf8_lossy(&need).into_owned();
    if have == need { Ok(()) } else { Err(OperateError::Key { path: path.to_owned(), have, need }) }
}

/// Writes one moment of the database into one file, verifies it, and says so line by line.
///
/// # Errors
/// The database does not answer, the file cannot be written, or what was written is damaged.
pub async fn backup(settings: &Settings, args: &BackupArgs, say: &dyn Fn(&str)) -> Result<(), OperateError> {
    archive::snapshot(&settings.database_url, &args.to).await?;
    let verified = archive::verify_file(&args.to).await?;
    tell(&verified, say);
    say(&format!("backup: {}", args.to.display()));
    if let Some(key) = archive::site_value_of_file(&args.to, KEY_VALUE).await? {
        let (key, file) = (String::from_utf8_lossy(&key).into_owned(), settings.site_key_file());
        say(&format!(
            "its secrets open with site key {key} only: keep {} too, and apart from this file",
            file.display()
        ));
    }
    whole(&verified)
}

/// Makes the settings' database from a backup file. It must not hold anything yet.
///
/// # Errors
/// The backup is damaged or of a newer release, the database is not empty, or a file cannot be written.
pub async fn restore(settings: &Settings, args: &RestoreArgs, say: &dyn Fn(&str)) -> Result<(), OperateError> {
    let verified = archive::verify_file(&args.from).await?;
    tell(&verified, say);
    whole(&verified)?;
    if let Some(path) = settings.database_url.strip_prefix("sqlite://") {
        place(&args.from, Path::new(path))?;
        // Brings an older backup's schema up to date.
        Store::open(&settings.database_url).await?;
    } else {
        let copied = archive::copy_file(&args.from, &settings.database_url).await?;
        say(&format!("copied and compared: {} rows, {} of them blocks", copied.rows, copied.blocks));
    }
    say(&format!("restored: {}", args.from.display()));
    let need = archive::site_value_of_file(&args.from, KEY_VALUE).await?.unwrap_or_default();
    let (need, file) = (String::from_utf8_lossy(&need).into_owned(), settings.site_key_file());
    if file.exists() {
        let have = Seal::open_or_create(&file)?.fingerprint();
        if !need.is_empty() && have != need {
            return Err(OperateError::Key { path: file, have, need });
        }
        say(&format!("site key {have} is the right one; start the server"));
    } else {
        say(&format!("put site key {need} at {} (mode 600) before the server is started", file.display()));
    }
    Ok(())
}

/// Copies the file beside its place and gives it its name only if nobody else has it.
fn place(from: &Path, to: &Path) -> Result<(), OperateError> {
    let failed = |path: &Path, advice| {
        let path = path.to_owned();
        move |error| OperateError::File { path, error, advice }
    };
    let draft = to.with_extension("restoring");
    if let Some(folder) = to.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(failed(folder, "give a folder that can be made"))?;
    }
    for beside in ["-wal", "-shm"] {
        let mut name = to.as_os_str().to_owned();
        name.push(beside);
        if Path::new(&name).exists() {
            let text = format!("{} is left of another database; move it away", Path::new(&name).display());
            return Err(OperateError::Refused(text));
        }
    }
    let copied = copy_private(from, &draft).and_then(|()| std::fs::hard_link(&draft, to));
    let removed = std::fs::remove_file(&draft);
    copied.map_err(failed(to, "a database that exists is never written over: move it away, or give another one"))?;
    removed.map_err(failed(&draft, "remove it by hand"))
}

fn copy_private(from: &Path, to: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut target = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    std::io::copy(&mut std::fs::File::open(from)?, &mut target)?;
    target.sync_all()
}

/// Opens and checks every row.
///
/// # Errors
/// Something is damaged, or the database does not answer.
pub async fn verify(settings: &Settings, args: &VerifyArgs, say: &dyn Fn(&str)) -> Result<(), OperateError> {
    let verified = match &args.file {
        Some(file) => archive::verify_file(file).await?,
        None => archive::verify(&settings.database_url).await?,
    };
    tell(&verified, say);
    whole(&verified)
}

/// Copies the whole database into an empty one of either engine and compares every row.
///
/// # Errors
/// The target is not empty, a database does not answer, or a row differs.
pub async fn move_to(settings: &Settings, args: &MoveArgs, say: &dyn Fn(&str)) -> Result<(), OperateError> {
    let target = Settings::load(Some(&args.to_config), None)
        .map_err(|error| OperateError::Refused(format!("the target's settings: {error}")))?;
    let source = archive::verify(&settings.database_url).await?;
    tell(&source, say);
    whole(&source)?;
    let copied = archive::copy(&settings.database_url, &target.database_url).await?;
    say(&format!(
        "copied and compared: {} rows, {} of them blocks with {} bytes",
        copied.rows, copied.blocks, copied.bytes
    ));
    say(&format!(
        "start the server with {} and the site key of the old one; the old database was left as it is",
        args.to_config.display()
    ));
    Ok(())
}

fn tell(verified: &Verified, say: &dyn Fn(&str)) {
    for text in &verified.told {
        say(&format!("damaged: {text}"));
    }
    say(&format!(
        "verified: {} blocks with {} bytes, {} other rows, {} damaged",
        verified.blocks, verified.bytes, verified.others, verified.damaged
    ));
}

fn whole(verified: &Verified) -> Result<(), OperateError> {
    if verified.damaged == 0 { Ok(()) } else { Err(OperateError::Damaged(verified.damaged)) }
}
