//! Who a container runs as: the security context, else the image's user, looked up in the image's own files.

use std::path::Path;

use k8s_openapi::api::core::v1::{Container, PodSpec};

/// Numeric identity of a container's processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups, `fsGroup` among them.
    pub groups: Vec<u32>,
    /// Home directory for `HOME`.
    pub home: String,
}

/// A security context that the image cannot meet; the text is the one a kubelet gives.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UserError(String);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Account {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

fn accounts(rootfs: &Path) -> Vec<Account> {
    let text = std::fs::read_to_string(rootfs.join("etc/passwd")).unwrap_or_default();
    let account = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = fields.as_slice() else { return None };
        Some(Account {
            name: (*name).to_owned(),
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
            home: (*home).to_owned(),
        })
    };
    text.lines().filter_map(account).collect()
}

/// Groups: name, number, members.
fn groups(rootfs: &Path) -> Vec<(String, u32, Vec<String>)> {
    let text = std::fs::read_to_string(rootfs.join("etc/group")).unwrap_or_default();
    let group = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, gid, members, ..] = fields.as_slice() else { return None };
        let members = members.split(',').filter(|m| !m.is_empty()).map(str::to_owned).collect();
        Some(((*name).to_owned(), gid.parse().ok()?, members))
    };
    text.lines().filter_map(group).collect()
}

/// Decides the identity of a container. `rootfs` is the mounted image.
pub fn resolve(spec: &PodSpec, container: &Container, image_user: &str, rootfs: &Path) -> Result<User, UserError> {
    let pod = spec.security_context.as_ref();
    let own = container.security_context.as_ref();
    let run_as_user = own.and_then(|c| c.run_as_user).or(pod.and_then(|c| c.run_as_user));
    let run_as_group = own.and_then(|c| c.run_as_group).or(pod.and_then(|c| c.run_as_group));
    let non_root = own.and_then(|c| c.run_as_non_root).or(pod.and_then(|c| c.run_as_non_root)).unwrap_or(false);

    let accounts = accounts(rootfs);
    let (wanted_user, wanted_group) = image_user.split_once(':').unwrap_or((image_user, ""));
    let (uid, account) = if let Some(uid) = run_as_user {
        let uid = uid as u32;
        (uid, accounts.iter().find(|a| a.uid == uid))
    } else if wanted_user.is_empty() {
        (0, accounts.iter().find(|a| a.uid == 0))
    } else if let Ok(uid) = wanted_user.parse() {
        (uid, accounts.iter().find(|a| a.uid == uid))
    } else {
        let account = accounts.iter().find(|a| a.name == wanted_user);
        let account = account.ok_or_else(|| {
            UserError(format!("unable to find user {wanted_user}: no matching entries in passwd file"))
        })?;
        if non_root {
            return Err(UserError(format!(
                "container has runAsNonRoot and image has non-numeric user ({wanted_user}), cannot verify user is non-root"
            )));
        }
        (account.uid, Some(account))
    };
    if non_root && uid == 0 {
        return Err(UserError(
            if run_as_user.is_some() {
                "container's runAsUser breaks non-root policy"
            } else {
                "container has runAsNonRoot and image will run as root"
            }
            .to_owned(),
        ));
    }
    let known_groups = groups(rootfs);
    let image_group = || {
        if run_as_user.is_some() || wanted_group.is_empty() {
            return None;
        }
        wanted_group.parse().ok().or_else(|| known_groups.iter().find(|g| g.0 == wanted_group).map(|g| g.1))
    };
    let gid = run_as_group.map(|g| g as u32).or_else(image_group).or(account.map(|a| a.gid)).unwrap_or(0);
    let mut groups: Vec<u32> = vec![gid];
    groups.extend(pod.and_then(|c| c.fs_group).map(|g| g as u32));
    groups.extend(pod.iter().flat_map(|c| c.supplemental_groups.iter().flatten()).map(|g| *g as u32));
    if let Some(account) = account {
        groups.extend(known_groups.iter().filter(|g| g.2.contains(&account.name)).map(|g| g.1));
    }
    groups.sort_unstable();
    groups.dedup();
    let home = account.map_or("/", |a| a.home.as_str()).to_owned();
    Ok(User { uid, gid, groups, home })
}
