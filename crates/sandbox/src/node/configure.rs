//! What a container is started with: user, environment, command, mounts, streams.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use k8s_openapi::api::core::v1::PodSpec;

use super::bundle::{BindMount, Bundle};
use super::container::{ContainerTask, StartError};
use super::logs::{Log, Stream};
use super::running::{Running, copy_terminal, pipe};
use super::runtime::Streams;
use super::{env, user, volumes};
use crate::images::Image;

/// Where programs look for the service account's token.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

impl ContainerTask {
    /// Writes the bundle's configuration.
    pub(super) async fn configure(
        &self,
        image: &Image,
        spec: &PodSpec,
        bundle_dir: &Path,
        rootfs: &Path,
    ) -> Result<(), StartError> {
        let shared = &self.shared;
        let fail = |e: &dyn std::fmt::Display| StartError::Config(e.to_string());
        let user = user::resolve(spec, &self.container, &image.config.user, rootfs).map_err(|e| fail(&e))?;
        let own = env::resolve(&shared.context.client, &shared.pod(), &self.container, &shared.facts())
            .await
            .map_err(|e| fail(&e))?;
        let known: BTreeMap<String, String> = own.iter().cloned().collect();
        let mut environment: Vec<(String, String)> = image
            .config
            .env
            .iter()
            .filter_map(|e| e.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect();
        let hostname = shared.hostname();
        let api = shared.context.network.addresses().api().to_string();
        for (key, value) in [
            ("HOSTNAME", hostname.as_str()),
            ("KUBERNETES_SERVICE_HOST", &api),
            ("KUBERNETES_SERVICE_PORT", "443"),
            ("KUBERNETES_SERVICE_PORT_HTTPS", "443"),
        ] {
            environment.push((key.to_owned(), value.to_owned()));
        }
        let defaults =
            [("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("HOME", user.home.as_str())];
        for (key, value) in defaults {
            if !environment.iter().chain(&own).any(|(k, _)| k == key) {
                environment.push((key.to_owned(), value.to_owned()));
            }
        }
        for (key, value) in own {
            environment.retain(|(k, _)| *k != key);
            environment.push((key, value));
        }
        let expanded = |list: &Option<Vec<String>>| -> Option<Vec<String>> {
            list.as_ref().filter(|l| !l.is_empty()).map(|l| l.iter().map(|text| env::expand(text, &known)).collect())
        };
        let (command, arguments) = (expanded(&self.container.command), expanded(&self.container.args));
        let args: Vec<String> = match (command, arguments) {
            (Some(command), arguments) => command.into_iter().chain(arguments.unwrap_or_default()).collect(),
            (None, Some(arguments)) => image.config.entrypoint.iter().cloned().chain(arguments).collect(),
            (None, None) => image.config.entrypoint.iter().chain(&image.config.cmd).cloned().collect(),
        };
        if args.is_empty() {
            return Err(StartError::Config("no command specified".to_owned()));
        }
        let cwd = [self.container.working_dir.as_deref(), Some(image.config.working_dir.as_str())]
            .into_iter()
            .flatten()
            .find(|dir| !dir.is_empty())
            .unwrap_or("/")
            .to_owned();
        let inside = rootfs.join(cwd.trim_start_matches('/'));
        if !inside.exists() && !cwd.split('/').any(|part| part == "..") {
            let _ = std::fs::create_dir_all(&inside);
        }
        let mounts = self.mounts(spec, bundle_dir).map_err(|e| fail(&e))?;
        let network = shared.network.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let network = network.ok_or_else(|| StartError::Config("the pod has no network".to_owned()))?;
        let bundle = Bundle {
            container: &self.container,
            rootfs,
            args,
            env: environment,
            cwd,
            user,
            hostname,
            mounts,
            network: &network.namespace,
            cgroup: format!("/{}", self.cgroup()),
        };
        std::fs::write(bundle_dir.join("config.json"), bundle.config().to_string()).map_err(|e| fail(&e))
    }

    fn mounts(&self, spec: &PodSpec, bundle_dir: &Path) -> std::io::Result<Vec<BindMount>> {
        let shared = &self.shared;
        let etc = shared.dir().join("etc");
        let own = |file: &str, destination: &str| BindMount {
            source: etc.join(file),
            destination: destination.to_owned(),
            read_only: false,
        };
        let mut mounts = vec![
            own("hosts", "/etc/hosts"),
            own("hostname", "/etc/hostname"),
            own("resolv.conf", "/etc/resolv.conf"),
            BindMount { source: shared.dir().join("shm"), destination: "/dev/shm".to_owned(), read_only: false },
        ];
        let message = bundle_dir.join("termination-log");
        std::fs::write(&message, "")?;
        std::fs::set_permissions(&message, std::fs::Permissions::from_mode(0o666))?;
        mounts.push(BindMount {
            source: message,
            destination: self
                .container
                .termination_message_path
                .clone()
                .filter(|p| !p.is_empty())
                .unwrap_or_else(|| "/dev/termination-log".to_owned()),
            read_only: false,
        });
        let ready = shared.volumes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for wanted in self.container.volume_mounts.iter().flatten() {
            let Some(folder) = ready.get(&wanted.name) else {
                return Err(std::io::Error::other(format!("volume \"{}\" is not ready", wanted.name)));
            };
            let part = wanted.sub_path.clone().filter(|p| !p.is_empty()).or_else(|| {
                let facts = shared.facts();
                let known = self.container.env.iter().flatten().filter_map(|e| {
                    let field = e.value_from.as_ref().and_then(|f| f.field_ref.as_ref());
                    let value = match field {
                        Some(field) => env::field(&shared.pod(), &facts, &field.field_path)?,
                        None => e.value.clone()?,
                    };
                    Some((e.name.clone(), value))
                });
                wanted.sub_path_expr.as_ref().map(|text| env::expand(text, &known.collect()))
            });
            let source = match part {
                Some(part) => volumes::sub_path(folder, &part)?,
                None => folder.clone(),
            };
            let volume = spec.volumes.iter().flatten().find(|v| v.name == wanted.name);
            let read_only = wanted.read_only == Some(true)
                || volume.is_some_and(|v| {
                    volumes::is_from_objects(v)
                        || v.persistent_volume_claim.as_ref().is_some_and(|c| c.read_only == Some(true))
                });
            mounts.retain(|m| m.destination != wanted.mount_path);
            mounts.push(BindMount { source, destination: wanted.mount_path.clone(), read_only });
        }
        if let Some(folder) = ready.get(super::pod::ACCOUNT_VOLUME)
            && !mounts.iter().any(|m| m.destination == ACCOUNT)
        {
            mounts.push(BindMount { source: folder.clone(), destination: ACCOUNT.to_owned(), read_only: true });
        }
        Ok(mounts)
    }

    /// Starts the container of a bundle.
    pub(super) async fn launch(&self, bundle_dir: &Path, run: i32) -> Result<Arc<Running>, StartError> {
        let shared = &self.shared;
        let fail = |e: &dyn std::fmt::Display| StartError::Run(e.to_string());
        let log = Log::open(&shared.log_path(self.name(), run)).map_err(|e| fail(&e))?;
        let tty = self.container.tty == Some(true);
        let id = format!("{}-{}-{run}", shared.uid, self.name());
        let mut streams = Streams::default();
        let mut outputs: Vec<(Stream, OwnedFd)> = Vec::new();
        let mut stdin = None;
        if !tty {
            for stream in [Stream::Stdout, Stream::Stderr] {
                let (reader, writer) = pipe().map_err(|e| fail(&e))?;
                outputs.push((stream, reader));
                let slot = if stream == Stream::Stdout { &mut streams.stdout } else { &mut streams.stderr };
                *slot = Some(writer);
            }
            if self.container.stdin == Some(true) {
                let (reader, writer) = pipe().map_err(|e| fail(&e))?;
                streams.stdin = Some(reader);
                stdin = Some(writer);
            }
            for writer in [&streams.stdout, &streams.stderr].into_iter().flatten() {
                // Programs reopen /dev/stdout under their own user id.
                let _ = rustix::fs::fchmod(writer, rustix::fs::Mode::from_raw_mode(0o666));
            }
        }
        let runtime = Arc::clone(&shared.context.runtime);
        let (process, terminal) =
            runtime.start(&id, bundle_dir, streams, tty).await.map_err(|e| fail(&shorten(&e.to_string())))?;
        for (stream, reader) in outputs {
            tokio::spawn(Arc::clone(&log).copy(stream, reader));
        }
        let terminal = terminal.map(Arc::new);
        if let Some(terminal) = &terminal
            && let Ok(copy) = terminal.try_clone()
        {
            tokio::spawn(copy_terminal(Arc::clone(&log), copy));
        }
        Ok(Arc::new(Running::new(id, runtime, process, log, stdin, terminal)))
    }
}

fn shorten(message: &str) -> String {
    message.chars().take(1000).collect()
}
