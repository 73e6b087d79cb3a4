//! Which IOCs count.

use vmray::model::{IocCore, Iocs};

use crate::settings::{IocType, MappingSettings};

/// Whether an IOC counts: VMRay takes it for one, its verdict is wanted, and it is not a memory dump, which cannot be looked for
/// elsewhere.
pub(super) fn is_wanted(core: &IocCore, settings: &MappingSettings) -> bool {
    core.ioc
        && core.verdict.is_some_and(|verdict| settings.iocs_verdicts.contains(&verdict))
        && !core.categories.iter().any(|category| category.trim().eq_ignore_ascii_case("memory dump"))
}

/// What the IOCs that count say besides their values.
pub(super) fn wanted_cores<'a>(
    iocs: &'a Iocs,
    settings: &'a MappingSettings,
) -> impl Iterator<Item = &'a IocCore> {
    let of = move |kind: IocType| settings.ioc_types.contains(&kind);
    let files = iocs.files.iter().map(|ioc| &ioc.core).filter(move |_| of(IocType::Files));
    let filenames = iocs.filenames.iter().map(|ioc| &ioc.core).filter(move |_| of(IocType::Filenames));
    let processes = iocs.processes.iter().map(|ioc| &ioc.core).filter(move |_| of(IocType::Processes));
    let domains = iocs.domains.iter().map(|ioc| &ioc.core).filter(move |_| of(IocType::Domains));
    let urls = iocs.urls.iter().map(|ioc| &ioc.core).filter(move |_| of(IocType::Urls));
    let ips = iocs.ips.iter().map(|ioc| &ioc.core).filter(move |_| of(IocType::Ips));
    let mutexes = iocs.mutexes.iter().map(|ioc| &ioc.core).filter(move |_| of(IocType::Mutexes));
    let registry = iocs.registry.iter().map(|ioc| &ioc.core).filter(move |_| of(IocType::Registry));
    let emails = iocs.emails.iter().map(|ioc| &ioc.core).filter(move |_| of(IocType::Emails));
    let addresses =
        iocs.email_addresses.iter().map(|ioc| &ioc.core).filter(move |_| of(IocType::EmailAddresses));
    let local = files.chain(filenames).chain(processes).chain(mutexes).chain(registry);
    let network = domains.chain(urls).chain(ips).chain(emails).chain(addresses);
    local.chain(network).filter(move |core| is_wanted(core, settings))
}
