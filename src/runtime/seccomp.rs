//! System call filters. For now only the absence of one.

use crate::spec::SeccompProfile;

/// A compiled filter.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter;

impl Filter {
    /// Compiles a profile.
    pub(crate) fn compile(profile: &SeccompProfile) -> Result<Self, String> {
        let _ = profile;
        Ok(Self)
    }

    /// Puts this process under the filter, for good.
    pub(crate) fn install(&self) -> Result<(), String> {
        Ok(())
    }
}
