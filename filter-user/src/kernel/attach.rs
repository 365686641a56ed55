// SPDX-License-Identifier: MIT OR Apache-2.0
//! Attaching the programs to a NIC by pinned `bpf_link`s, and replacing them atomically.

use anyhow::{Context as _, Result, anyhow};
use aya::programs::{
    ProgramError,
    links::{FdLink, PinnedLink},
    xdp::{XdpLink, XdpMode as KernelMode},
};

use filter_common::egress::Side;

use super::{
    egress,
    netlink::Nic,
    object::{Instance, Role},
    pins::{NicPins, PinDirectory, pin_beside},
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

/// What the programs on a NIC do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Duty {
    /// The side that the NIC is on.
    pub side: Side,
    /// Whether what leaves by it is followed.
    pub following: Following,
    /// How the program on what enters is attached.
    pub mode: XdpMode,
}

/// Whether what leaves by a NIC is followed, so that its replies are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Following {
    /// It is.
    Flows,
    /// Nothing is: replies come in where nobody asks for them.
    Nothing,
}

/// Programs at work on a NIC.
#[derive(Debug)]
pub struct Attachment {
    /// The NIC's index and name.
    pub nic: NicPins,
    /// The kernel's index of the NIC.
    pub interface: u32,
    /// What they do.
    pub duty: Duty,
    /// The instance of the programs.
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
    /// Loads the programs for a NIC that has none of ours, attaches and pins them.
    ///
    /// # Errors
    ///
    /// Another program is attached, or the driver can't do what the mode asks for. What was pinned
    /// before the error has to be removed by the caller.
    pub fn attach(pins: &PinDirectory, nic: NicPins, interface: u32, duty: Duty) -> Result<Self> {
        let mut instance = Instance::load(pins, nic.index, duty.side, Role::Enforcing)?;
        // What leaves is followed before replies are asked for their flow.
        follow(pins, &nic, &mut instance, duty)?;
        let (link, announcement) = attach_link(&mut instance, &nic, interface, duty.mode)?;
        // The program is pinned first: a link without its program's pin can be adopted, a pinned
        // program without a link does nothing.
        pin_program(pins, &nic, &mut instance)?;
        link.pin(pins.link(&nic))
            .with_context(|| format!("the link of {} can't be pinned", nic.name))?;
        Ok(Self { nic, interface, duty, instance, announcement })
    }

    /// Replaces the program of a pinned link by this version's.
    ///
    /// # Errors
    ///
    /// The program can't be loaded; the old one stays.
    pub fn adopt(pins: &PinDirectory, nic: NicPins, found: &Nic, duty: Duty) -> Result<Adoption> {
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
        let mut instance = Instance::load(pins, nic.index, duty.side, Role::Enforcing)?;
        follow(pins, &nic, &mut instance, duty)?;
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
        Ok(Adoption::Adopted(Box::new(Self { nic, interface, duty, instance, announcement: None })))
    }

    /// Whether what leaves by the NIC is followed as it should be.
    ///
    /// # Errors
    ///
    /// The kernel doesn't tell.
    pub fn follows(&self, pins: &PinDirectory) -> Result<bool> {
        match self.duty.following {
            Following::Flows => egress::is_attached(pins, &self.nic, &self.instance),
            Following::Nothing => Ok(true),
        }
    }
}

/// Sees to the program on what leaves a NIC.
fn follow(pins: &PinDirectory, nic: &NicPins, instance: &mut Instance, duty: Duty) -> Result<()> {
    match duty.following {
        Following::Flows => egress::attach(pins, nic, instance),
        Following::Nothing => pins.remove_egress(nic),
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
    let program = instance.program()?;
    pin_beside(&pins.next_program(nic), &pins.program(nic), |path| Ok(program.pin(path)?))
        .with_context(|| format!("the program of {} can't be pinned", nic.name))
}
