//! MariaDB over a connection: typed statements, rows to `topology` types. Every statement has a time limit here, because
//! frozen servers, full disks and black holes never answer.

mod locks;
mod logs;
mod markers;
mod passages;
mod reception;
mod rows;
mod session;
mod statements;

pub use logs::LogIndexes;
pub use markers::Acknowledgements;
pub use reception::Reception;
pub use session::{Session, SqlError, Target};
pub use statements::{Account, Follow};

/// Text as an SQL string literal.
pub fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('\'');
    for c in text.chars() {
        match c {
            '\'' => quoted.push_str("''"),
            '\\' => quoted.push_str("\\\\"),
            '\0' => quoted.push_str("\\0"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\x1a' => quoted.push_str("\\Z"),
            c => quoted.push(c),
        }
    }
    quoted.push('\'');
    quoted
}

/// Text as an SQL identifier.
pub fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn quoting() {
        assert_eq!(super::quote("it's a \\ \n"), "'it''s a \\\\ \\n'");
        assert_eq!(super::identifier("a`b"), "`a``b`");
    }
}
