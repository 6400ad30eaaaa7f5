//! `make demo`: a fleet is upgraded, then a node fails and is cured, with the user's own commands.

use std::{fmt::Write as _, fs, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use kube::Client;
use monok8s_api::reason::{ProgressPhase, UpgradePhase};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    control_plane,
    instance::Instance,
    kubectl::Kubectl,
    live::{self, Seen, View, phase},
    screen::Screen,
    supervisor::{Description, Order, Plan},
};

const BEGIN: &str = "v1.34.1";
const FIRST: &str = "v1.35.1";
const SECOND: &str = "v1.36.0";
const UPGRADE: &str = "fleet";

/// How long a part of the story may take.
const LIMIT: Duration = Duration::from_secs(300);

/// Runs the demo. Everything is ended afterwards, however it went, unless `keep`.
pub async fn run(instance: &Instance, keep: bool) -> Result<ExitCode> {
    let screen = Screen::new();
    // Before anything that is ended afterwards: one that is kept is not this one's to end.
    instance.ensure_down()?;
    let mut term = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
    let outcome = tokio::select! {
        outcome = story(screen, instance, keep) => outcome.map(|()| ExitCode::SUCCESS),
        _ = interrupt.recv() => Err(anyhow::anyhow!("interrupted")),
        _ = term.recv() => Err(anyhow::anyhow!("asked to end")),
    };
    if keep && outcome.is_ok() {
        return outcome;
    }
    if let Err(error) = &outcome {
        screen.line("");
        screen.line(&format!("The demo ends here: {error:#}"));
    }
    instance.down().await.with_context(|| {
        format!(
            "not everything could be ended; `{}` tries again",
            instance.end()
        )
    })?;
    screen.line("\nEverything has been ended and removed.");
    Ok(outcome.unwrap_or(ExitCode::FAILURE))
}

async fn story(screen: Screen, instance: &Instance, keep: bool) -> Result<()> {
    screen.heading("A control plane, an image server and three nodes on this machine");
    let plan = Plan {
        nodes: 3,
        controllers: 1,
        version: BEGIN.into(),
        images: vec![FIRST.into(), SECOND.into()],
        payload: 24 << 20,
        bytes_per_second: 5 << 20,
    };
    let up = instance
        .start(&plan, keep, &mut |line| screen.line(&format!("  {line}")))
        .await?;
    let teller = Teller {
        screen,
        instance,
        kubectl: up.kubectl(),
        client: control_plane::client(&up.kubeconfig).await?,
        up,
    };
    teller.upgrade().await?;
    let failed = teller.failure().await?;
    teller.cure(&failed).await?;
    if keep {
        teller.farewell();
    }
    Ok(())
}

struct Teller<'a> {
    screen: Screen,
    instance: &'a Instance,
    kubectl: Kubectl,
    client: Client,
    up: Description,
}

impl Teller<'_> {
    async fn upgrade(&self) -> Result<()> {
        self.screen.heading(&format!(
            "Every node runs {BEGIN}; the catalog's stable version is {FIRST}. A node is emptied before it reboots"
        ));
        self.kubectl(&["get", "osnodes"]).await?;
        let text = upgrade(&self.up.catalog);
        fs::write(self.instance.folder().join("upgrade.yaml"), &text)
            .context("cannot write upgrade.yaml")?;
        self.screen.typed("cat upgrade.yaml");
        self.screen.line(text.trim_end());
        self.kubectl(&["apply", "-f", "upgrade.yaml"]).await?;
        self.kubectl(&["get", "osupgrades"]).await?;
        self.live_to_the_end(FIRST).await?;
        self.kubectl(&["wait", "--for=condition=Completed", "osupgrade/fleet"])
            .await?;
        self.kubectl(&["get", "osupgrades"]).await?;
        self.kubectl(&["get", "osnodes"]).await
    }

    async fn failure(&self) -> Result<String> {
        self.screen.heading(&format!(
            "Next {SECOND}, one node after the other; on the way its image goes missing"
        ));
        let patch =
            format!(r#"{{"spec":{{"version":"{SECOND}","rollout":{{"maxUnavailable":1}}}}}}"#);
        self.kubectl(&[
            "patch",
            "osupgrade",
            UPGRADE,
            "--type",
            "merge",
            "-p",
            &patch,
        ])
        .await?;
        let mut view = self.view()?;
        let fetched = |seen: &Seen| seen.towards(SECOND).any(has_the_image).then_some(());
        self.live(&mut view, SECOND, fetched).await?;
        let gone = Order::Fault {
            path: self.path(SECOND)?,
            fault: "status=404".into(),
        };
        self.instance.order(&gone).await?;
        view.say("  (from now on the image server answers 404)");
        let failed = self.live(&mut view, SECOND, halted).await?;
        view.finish();
        self.screen
            .heading("That node failed, on the system it ran before; the rollout is halted");
        self.kubectl(&["get", "osupgrades", "-o", "wide"]).await?;
        self.kubectl(&["get", "osupgradeprogresses"]).await?;
        let reason = r#"jsonpath={.status.failureReason}{": "}{.status.message}{"\n"}"#;
        self.kubectl(&["get", "osupgradeprogress", &failed, "-o", reason])
            .await?;
        Ok(failed)
    }

    async fn cure(&self, failed: &str) -> Result<()> {
        self.screen
            .heading("The image is put back, and the node is told to try again");
        self.instance
            .order(&Order::Cure {
                path: self.path(SECOND)?,
            })
            .await?;
        let nonce = r#"{"spec":{"retryNonce":"retry-1"}}"#;
        self.kubectl(&[
            "patch",
            "osupgradeprogress",
            failed,
            "--type",
            "merge",
            "-p",
            nonce,
        ])
        .await?;
        self.live_to_the_end(SECOND).await?;
        self.kubectl(&["get", "osupgrades"]).await?;
        self.kubectl(&["get", "osupgradeprogresses"]).await?;
        self.kubectl(&["get", "osnodes"]).await
    }

    fn farewell(&self) {
        let say = |text: &str| self.screen.line(text);
        self.screen.heading(&format!(
            "Everything stays up; `{}` ends it",
            self.instance.end()
        ));
        say("");
        say(&format!(
            "export KUBECONFIG={}",
            self.up.kubeconfig.display()
        ));
        say(&format!(
            "{} get osupgrades,osupgradeprogresses,osnodes",
            self.up.kubectl.display()
        ));
    }

    fn view(&self) -> Result<View> {
        self.screen.line("");
        View::new(self.screen, &self.up.nodes)
    }

    /// Shows the way to `target` until `done`.
    async fn live<T>(
        &self,
        view: &mut View,
        target: &str,
        done: impl FnMut(&Seen) -> Option<T>,
    ) -> Result<T> {
        live::watch(view, &self.client, (UPGRADE, target), LIMIT, done).await
    }

    /// Shows the way to `target` until every node is there.
    async fn live_to_the_end(&self, target: &str) -> Result<()> {
        let mut view = self.view()?;
        self.live(&mut view, target, completed).await?;
        view.finish();
        Ok(())
    }

    /// Types a command and shows what the real one prints.
    async fn kubectl(&self, arguments: &[&str]) -> Result<()> {
        let typed: Vec<String> = arguments.iter().map(|argument| quoted(argument)).collect();
        self.screen.typed(&format!("kubectl {}", typed.join(" ")));
        let mut command = self.kubectl.command(arguments);
        let output = command
            .current_dir(self.instance.folder())
            .output()
            .await
            .context("cannot run kubectl")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        for printed in [text(&output.stdout), text(&output.stderr)] {
            if !printed.is_empty() {
                self.screen.line(&printed);
            }
        }
        if !output.status.success() {
            bail!("kubectl failed ({})", output.status);
        }
        Ok(())
    }

    fn path(&self, version: &str) -> Result<String> {
        let found = self.up.images.iter().find(|(known, _)| known == version);
        found
            .map(|(_, path)| path.clone())
            .with_context(|| format!("there is no image of {version}"))
    }
}

/// The upgrade that is applied.
fn upgrade(catalog: &str) -> String {
    let mut indented = String::new();
    for line in catalog.lines().filter(|line| !line.starts_with("stable:")) {
        let _ = writeln!(indented, "      {line}");
    }
    format!(
        "apiVersion: monok8s.io/v1alpha1\nkind: OSUpgrade\nmetadata:\n  name: {UPGRADE}\nspec:\n  version: stable\n  \
         rollout:\n    maxUnavailable: 2\n  catalog:\n    inline: |\n      stable: {FIRST}\n{indented}"
    )
}

/// The upgrade is done, and the last node has been given its pods back, a moment after it.
fn completed(seen: &Seen) -> Option<()> {
    let status = seen.upgrade.as_ref()?.status.as_ref()?;
    let current = status.observed_generation == seen.upgrade.as_ref()?.metadata.generation;
    let done = current && status.phase == UpgradePhase::Completed;
    (done && seen.cordoned.is_empty()).then_some(())
}

/// Whether a node no longer needs the image server.
fn has_the_image(progress: &monok8s_api::OSUpgradeProgress) -> bool {
    use ProgressPhase::{Completed, Confirming, Rebooting, Staged, Verifying};
    matches!(
        phase(progress),
        Verifying | Staged | Rebooting | Confirming | Completed
    )
}

/// The failed progress, once nothing more is released because of it.
fn halted(seen: &Seen) -> Option<String> {
    let (_, reason) = seen.condition("Progressing")?;
    let failed = seen
        .towards(SECOND)
        .find(|progress| phase(progress) == ProgressPhase::Failed)?;
    (reason == "TooManyFailures")
        .then(|| failed.metadata.name.clone())
        .flatten()
}

/// An argument as a shell takes it.
fn quoted(argument: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./=,:@".contains(&byte);
    if !argument.is_empty() && argument.bytes().all(plain) {
        argument.to_owned()
    } else {
        format!("'{}'", argument.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_shown_as_a_shell_takes_them() {
        assert_eq!(
            quoted("--for=condition=Completed"),
            "--for=condition=Completed"
        );
        assert_eq!(quoted(r#"{"a":1}"#), r#"'{"a":1}'"#);
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }

    #[test]
    fn the_upgrade_is_one() {
        let text =
            upgrade("stable: v1.36.0\nimages:\n- version: v1.35.1\n  url: http://127.0.0.1/a\n");
        let upgrade: monok8s_api::OSUpgrade = serde_yaml::from_str(&text).unwrap();
        let catalog = upgrade.spec.catalog.unwrap().inline.unwrap();
        let catalog = monok8s_api::catalog::Catalog::parse(&catalog).unwrap();
        assert_eq!(catalog.alias("stable"), Some(FIRST));
    }
}
