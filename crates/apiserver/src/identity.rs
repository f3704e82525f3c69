//! Who asks.

/// The user behind a request. Requests through the in-process router are the administrator's
/// unless they carry another identity as a request extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User name, such as `system:serviceaccount:demo:default`.
    pub name: String,
    /// User id, where known.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Further facts (`authentication.kubernetes.io/pod-name`, ...).
    pub extra: Vec<(String, Vec<String>)>,
}

impl Identity {
    /// The administrator, who may do everything.
    pub fn administrator() -> Self {
        let groups = vec!["system:masters".to_owned(), "system:authenticated".to_owned()];
        Self { name: "kubernetes-admin".to_owned(), uid: String::new(), groups, extra: Vec::new() }
    }

    /// Nobody known.
    pub fn anonymous() -> Self {
        let groups = vec!["system:unauthenticated".to_owned()];
        Self { name: "system:anonymous".to_owned(), uid: String::new(), groups, extra: Vec::new() }
    }

    /// Whether this user may do everything.
    pub fn is_administrator(&self) -> bool {
        self.groups.iter().any(|g| g == "system:masters")
    }
}
