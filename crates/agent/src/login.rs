//! How the agent logs in: as `mysql@localhost`, over the socket, with a password that is drawn at each start of the server and set
//! through its init file. So no password is kept, a copied data directory needs none of its donor's, and an image without a
//! passwd entry for the pod's user (which `unix_socket` authentication needs) works too.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rand::Rng as _;

use crate::places::Places;

/// The agent's account.
pub(crate) const USER: &str = "mysql";

static SECRET: Mutex<String> = Mutex::new(String::new());

/// SQL that the server runs as it starts.
pub(crate) fn init_file(places: &Places) -> PathBuf {
    places.run.join("agent-init.sql")
}

/// Options for the image's clients.
pub(crate) fn client_file(places: &Places) -> PathBuf {
    places.run.join("agent-client.cnf")
}

/// Options for `mariadb-backup`, which must know the server's, too.
pub(crate) fn backup_file(places: &Places) -> PathBuf {
    places.run.join("agent-backup.cnf")
}

/// Draws a new password and writes the files that bring it to server and clients.
pub(crate) fn prepare(places: &Places) -> std::io::Result<String> {
    let secret: String = (0..32).map(|_| char::from(rand::rng().sample(rand::distr::Alphanumeric))).collect();
    // Local to this server: never in the binary log. Works whether or not the account is there.
    let sql = format!(
        "SET SESSION sql_log_bin=0;\n\
         CREATE USER IF NOT EXISTS '{USER}'@'localhost';\n\
         ALTER USER '{USER}'@'localhost' IDENTIFIED VIA mysql_native_password USING PASSWORD('{secret}') OR unix_socket;\n\
         GRANT ALL PRIVILEGES ON *.* TO '{USER}'@'localhost' WITH GRANT OPTION;\n"
    );
    std::fs::create_dir_all(&places.run)?;
    write_private(&init_file(places), &sql)?;
    let login = format!("user={USER}\npassword={secret}\n");
    write_private(&client_file(places), &format!("[client]\n{login}"))?;
    let server = places.my_cnf();
    write_private(&backup_file(places), &format!("!include {}\n[mariadb-backup]\n{login}", server.display()))?;
    SECRET.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone_from(&secret);
    Ok(secret)
}

/// The password of the running server.
pub(crate) fn secret() -> String {
    SECRET.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
}

fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let _ = std::fs::remove_file(path);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}
