// SPDX-License-Identifier: MIT OR Apache-2.0
//! Attaching the program to a NIC by a pinned `bpf_link`, and replacing it atomically.

use anyhow::{Context as _, Result, anyhow};
use aya::programs::{
    ProgramError,
    links::{FdLink, PinnedLink},
    xdp::{XdpLink, XdpMode as KernelMode},
};

use super::{
    netlink::Nic,
    object::{Instance, Role},
    pins::{NicPins, PinDirectory},
};
use crate::policy::XdpMode;

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachedMode {
    /// By the driver.
    Native,
    /// By the network stack, behind the driver.
    Generic,
}

/// A program at work on a NIC.
#[derive(Debug)]
pub struct Attachment {
    /// The NIC's index and name.
    pub nic: NicPins,
    /// The kernel's index of the NIC.
    pub interface: u32,
    /// The instance of the program.
    pub instance: Instance,
    /// What the operator should know, in a sentence.
    pub announcement: Option<String>,
}

/// What became of a pinned link.
#[derive(Debug)]
pub enum Adoption {
    /// Its program was replaced by ours without a gap.
    Adopted(Box<Attachment>),
    /// Its NIC is gone, or is another one by now.
    Stale,
}

// === impl Attachment ===

impl Attachment {
    /// Loads the program for a NIC that has none of ours, attaches it and pins it.
    ///
    /// # Errors
    ///
    /// Another program is attached, or the driver can't do what `mode` asks for. Nothing is left
    /// attached then.
    pub fn attach(
        pins: &PinDirectory,
        nic: NicPins,
        interface: u32,
        mode: XdpMode,
    ) -> Result<Self> {
        let mut instance = Instance::load(pins, nic.index, Role::Enforcing)?;
        let (link, announcement) = attach_link(&mut instance, &nic, interface, mode)?;
        // The program is pinned first: a link without its program's pin can be adopted, a pinned
        // program without a link does nothing.
        pin_program(pins, &nic, &mut instance)?;
        link.pin(pins.link(&nic))
            .with_context(|| format!("the link of {} can't be pinned", nic.name))?;
        Ok(Self { nic, interface, instance, announcement })
    }

    /// Replaces the program of a pinned link by this version's.
    ///
    /// # Errors
    ///
    /// The program can't be loaded; the old one stays.
    pub fn adopt(pins: &PinDirectory, nic: NicPins, found: &Nic) -> Result<Adoption> {
        let link = PinnedLink::from_pin(pins.link(&nic))
            .with_context(|| format!("the pinned link of {} can't be opened", nic.name))?;
        let link = FdLink::from(link);
        // The link stays with the device when that is renamed or moved away, and another device
        // may have its name by now.
        let program = link.info()?.program_id();
        if ![found.native_program, found.generic_program].contains(&Some(program)) {
            return Ok(Adoption::Stale);
        }
        let interface = found.index;
        let mut instance = Instance::load(pins, nic.index, Role::Enforcing)?;
        let link = XdpLink::try_from(link)
            .with_context(|| format!("the pin of {} is no XDP link", nic.name))?;
        let program = instance.program()?;
        match program.attach_to_link(link) {
            Ok(_) => {}
            // The kernel keeps a link whose NIC is gone, and refuses to update it.
            Err(ProgramError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(nix::errno::Errno::ENOLINK as i32) =>
            {
                return Ok(Adoption::Stale);
            }
            Err(error) => {
                let error = anyhow::Error::new(error);
                return Err(error.context(format!("the program on {} can't be replaced", nic.name)));
            }
        }
        pin_program(pins, &nic, &mut instance)?;
        Ok(Adoption::Adopted(Box::new(Self { nic, interface, instance, announcement: None })))
    }
}

/// Attaches natively where `mode` allows it, and generically where it asks or must.
fn attach_link(
    instance: &mut Instance,
    nic: &NicPins,
    interface: u32,
    mode: XdpMode,
) -> Result<(FdLink, Option<String>)> {
    match mode {
        XdpMode::Native => match try_attach(instance, interface, KernelMode::Driver) {
            Ok(link) => Ok((link, None)),
            Err(error) => Err(explain(error, nic, "native")),
        },
        XdpMode::Generic => match try_attach(instance, interface, KernelMode::Skb) {
            Ok(link) => Ok((link, None)),
            Err(error) => Err(explain(error, nic, "generic")),
        },
        XdpMode::Auto => match try_attach(instance, interface, KernelMode::Driver) {
            Ok(link) => Ok((link, None)),
            Err(error) if is_busy(&error) => Err(explain(error, nic, "native")),
            Err(native) => match try_attach(instance, interface, KernelMode::Skb) {
                Ok(link) => {
                    let announcement = format!(
                        "the driver of {} doesn't run XDP programs ({native:#}); the filter is \
                         attached in generic mode, which is slower",
                        nic.name
                    );
                    Ok((link, Some(announcement)))
                }
                Err(error) => Err(explain(error, nic, "generic")),
            },
        },
    }
}

fn try_attach(instance: &mut Instance, interface: u32, mode: KernelMode) -> Result<FdLink> {
    let program = instance.program()?;
    let id = program.attach_to_if_index(interface, mode)?;
    let link = program.take_link(id)?;
    // aya falls back to netlink where the kernel refuses a bpf_link; such an attachment can't be
    // pinned. Linux 6.1 and newer know the link, so that this isn't expected.
    FdLink::try_from(link).context(
        "the kernel refused a bpf_link, which pinning needs, and took an attachment by netlink \
         instead; take that off with `ip link set dev NIC xdp off`",
    )
}

fn is_busy(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let io = match cause.downcast_ref::<ProgramError>() {
            Some(ProgramError::SyscallError(error)) => Some(&error.io_error),
            Some(_) | None => cause.downcast_ref::<std::io::Error>(),
        };
        matches!(
            io.and_then(std::io::Error::raw_os_error),
            Some(code) if code == nix::errno::Errno::EBUSY as i32
                || code == nix::errno::Errno::EEXIST as i32
        )
    })
}

fn explain(error: anyhow::Error, nic: &NicPins, mode: &str) -> anyhow::Error {
    if is_busy(&error) {
        anyhow!(
            "another XDP program is already attached to {0}; see whose it is with `ip link show \
             dev {0}`, take it off (`ip link set dev {0} xdp off`, or `sluice detach` with that \
             instance's --pin-dir), then start again",
            nic.name
        )
    } else {
        error.context(format!("the filter can't be attached to {} in {mode} mode", nic.name))
    }
}

/// Pins the program beside its old pin and renames, so that there is always one.
fn pin_program(pins: &PinDirectory, nic: &NicPins, instance: &mut Instance) -> Result<()> {
    let path = pins.program(nic);
    let fresh = pins.next_program(nic);
    if fresh.exists() {
        std::fs::remove_file(&fresh)?;
    }
    instance
        .program()?
        .pin(&fresh)
        .with_context(|| format!("the program of {} can't be pinned", nic.name))?;
    std::fs::rename(&fresh, &path).with_context(|| format!("{} can't be renamed", fresh.display()))
}
