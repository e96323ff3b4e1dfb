//! What the kernel says of IMEX channels.

/// The name under which the driver registers them with the kernel.
const REGISTERED_AS: &str = "nvidia-caps-imex-channels";

/// The line of the driver's parameters that says how many there are.
const COUNT: &str = "ImexChannelCount:";

/// How many there are where the parameters do not say: the default of `NVreg_ImexChannelCount`.
const DEFAULT_COUNT: u32 = 2048;

/// The IMEX channels of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImexChannels {
    /// Major number of their device nodes. The kernel gives out another one after each boot, and when
    /// the driver's modules are loaded anew.
    pub major: u32,
    /// How many there are; their numbers, which are the minor numbers, begin at 0.
    pub count: u32,
}

/// Reads `/proc/devices` and, if it is there, `/proc/driver/nvidia/params`.
///
/// Nothing where the driver has registered no channels, as one before R535 or with
/// `NVreg_ImexChannelCount=0`.
pub fn imex_channels(devices: &str, params: Option<&str>) -> Option<ImexChannels> {
    let characters = devices.split("Block devices:").next().unwrap_or_default();
    let major = characters.lines().find_map(|line| {
        let (major, name) = line.trim().split_once(' ')?;
        (name.trim() == REGISTERED_AS).then(|| major.parse().ok())?
    })?;
    let said = params.and_then(|params| {
        let mut lines = params.lines();
        lines.find_map(|line| line.strip_prefix(COUNT)?.trim().parse().ok())
    });
    let count = said.unwrap_or(DEFAULT_COUNT);
    (count > 0).then_some(ImexChannels { major, count })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICES: &str = "Character devices:\n  1 mem\n195 nvidia\n234 nvidia-caps-imex-channels\n\n\
                           Block devices:\n  8 sd\n";

    #[test]
    fn the_major_number_is_that_of_the_character_devices_of_this_very_name() {
        let found = |devices: &str| imex_channels(devices, None).map(|channels| channels.major);
        assert_eq!(found(DEVICES), Some(234));
        assert_eq!(found(""), None);
        assert_eq!(found("Character devices:\n195 nvidia-caps\n"), None);
        let block =
            "Character devices:\n  1 mem\n\nBlock devices:\n234 nvidia-caps-imex-channels\n";
        assert_eq!(found(block), None);
        assert_eq!(found("many nvidia-caps-imex-channels\n"), None);
    }

    #[test]
    fn the_count_is_what_the_parameters_say_or_the_default() {
        let count = |params| imex_channels(DEVICES, params).map(|channels| channels.count);
        assert_eq!(count(None), Some(2048));
        assert_eq!(count(Some("ModifyDeviceFiles: 1\n")), Some(2048));
        assert_eq!(
            count(Some("ModifyDeviceFiles: 1\nImexChannelCount: 4096\n")),
            Some(4096)
        );
        assert_eq!(count(Some("ImexChannelCount: 0\n")), None);
    }
}
