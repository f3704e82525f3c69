//! Users' `my.cnf`: which options it sets, and where.

mod dynamic;

pub use dynamic::{DYNAMIC, fixed, variables};

/// An option of a `my.cnf`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigOption {
    /// Name with underscores, lower case, without `loose_`.
    pub name: String,
    /// Value without quotes and comments; `None` for a bare option.
    pub value: Option<String>,
    /// It was written with `loose_`: a server that does not know it says nothing.
    pub loose: bool,
    /// Line, 1-based.
    pub line: u32,
}

/// Groups that the server reads.
const SERVER_GROUPS: &[&str] =
    &["mariadb", "mysqld", "mariadbd", "server", "mariadb-11.8", "mariadb-10.11", "mariadbd-11.8", "mariadbd-10.11"];

/// The options in the server's groups, in order.
pub fn options(text: &str) -> Vec<ConfigOption> {
    let mut server = false;
    let mut options = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';', '!']) {
            continue;
        }
        if let Some(group) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            server = SERVER_GROUPS.contains(&group.trim());
            continue;
        }
        if !server {
            continue;
        }
        let line = uncommented(line);
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name, Some(unquoted(value.trim()).to_owned())),
            None => (line, None),
        };
        let name = name.trim().to_lowercase().replace('-', "_");
        let loose = name.starts_with("loose_");
        let name = name.strip_prefix("loose_").map_or(name.clone(), str::to_owned);
        options.push(ConfigOption { name, value, loose, line: index as u32 + 1 });
    }
    options
}

/// A `#` outside quotes begins a comment.
fn uncommented(line: &str) -> &str {
    let mut quote = None;
    for (index, c) in line.char_indices() {
        match (quote, c) {
            (None, '#') => return line[..index].trim_end(),
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            _ => {}
        }
    }
    line
}

fn unquoted(value: &str) -> &str {
    ['"', '\'']
        .iter()
        .find_map(|&quote| value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)))
        .unwrap_or(value)
}

/// The last value of an option.
pub fn value<'a>(options: &'a [ConfigOption], name: &str) -> Option<&'a ConfigOption> {
    options.iter().rev().find(|option| option.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_that_of_the_field_it_stands_in() {
        let all = options("[mariadb]\nport=1\nno-such=2\n");
        assert_eq!(crate::resolve::place(2, &all[0]), "spec.myCnf (line 2: port)");
        assert_eq!(crate::resolve::place(2, &all[1]), "spec.myCnfConfigMapKeyRef (line 1: no-such)");
    }

    #[test]
    fn groups_comments_quotes_and_spellings() {
        let text = "[client]\nport=1\n[mariadb]\n# server-id=3\nserver-id = 7\nslave-parallel-max-queued=134217728  # 128MB\n\
                    init_connect='SET @a=\"#\"'\nskip-name-resolve\nloose-foo=1\n";
        let found = options(text);
        let names: Vec<_> = found.iter().map(|o| (o.name.as_str(), o.value.as_deref(), o.line)).collect();
        assert_eq!(
            names,
            [
                ("server_id", Some("7"), 5),
                ("slave_parallel_max_queued", Some("134217728"), 6),
                ("init_connect", Some("SET @a=\"#\""), 7),
                ("skip_name_resolve", None, 8),
                ("foo", Some("1"), 9),
            ]
        );
    }
}
