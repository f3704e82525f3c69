//! Names of images.

/// `[registry/]repository[:tag][@digest]`, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Repository without the registries that stand for "here" or Docker Hub.
    pub repository: String,
    /// Tag; `latest` when none was given.
    pub tag: String,
    /// Digest, if the name has one.
    pub digest: Option<String>,
}

impl Reference {
    /// Takes a name apart; `None` when it cannot be the name of an image.
    pub fn parse(name: &str) -> Option<Self> {
        let (name, digest) = match name.split_once('@') {
            Some((name, digest)) => (name, Some(digest.to_owned())),
            None => (name, None),
        };
        let (repository, tag) = match name.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => (repository, tag),
            _ => (name, "latest"),
        };
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/:".contains(c);
        if repository.is_empty() || tag.is_empty() || !repository.chars().all(plain) {
            return None;
        }
        let mut repository = repository;
        for prefix in ["localhost/", "docker.io/", "index.docker.io/", "library/"] {
            repository = repository.strip_prefix(prefix).unwrap_or(repository);
        }
        Some(Self { repository: repository.to_owned(), tag: tag.to_owned(), digest })
    }

    /// Repository and tag, as images are listed.
    pub fn short(&self) -> String {
        format!("{}:{}", self.repository, self.tag)
    }

    /// What a kubelet does when a pod does not say: always for `latest`.
    pub fn pull_always_by_default(&self) -> bool {
        self.digest.is_none() && self.tag == "latest"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, short: Option<&str>) {
        assert_eq!(Reference::parse(name).map(|r| r.short()).as_deref(), short, "{name}");
    }

    #[test]
    fn names_are_taken_apart() {
        check("mariadb", Some("mariadb:latest"));
        check("docker.io/library/mariadb:11.8.2", Some("mariadb:11.8.2"));
        check("localhost/mariadb-operator:0.1.0", Some("mariadb-operator:0.1.0"));
        check("registry.example:5000/team/app", Some("registry.example:5000/team/app:latest"));
        check("registry.example:5000/team/app:1", Some("registry.example:5000/team/app:1"));
        check("mariadb:11.8@sha256:abc", Some("mariadb:11.8"));
        check("Not An Image", None);
        check("", None);
    }
}
