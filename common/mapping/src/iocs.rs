//! IOCs: which count, and what each type becomes. Files have a module of their own.

use crate::mapper::{Context, Found, Mapper, Pair};
use crate::settings::{IocType, MappingSettings};
use crate::text::{markdown, markdown_list};
use crate::values::{self, Ip, Mailbox};
use stix::object::{ObservableValue, RelationshipKind};
use stix::{LeftOutReason, StixId, pattern};
use vmray::model::{
    DomainIoc, EmailAddressIoc, EmailIoc, IocCore, Iocs, IpIoc, MutexIoc, ProcessIoc, RegistryIoc, UrlIoc,
};

/// Whether an IOC counts: VMRay takes it for one, its verdict is wanted, and it is no memory dump, which nobody can
/// look for.
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

impl<'a> Mapper<'a> {
    /// Maps all IOCs but files.
    pub(super) fn other_iocs(&mut self) {
        let iocs = &self.facts.iocs;
        self.each(IocType::Processes, &iocs.processes, |ioc| &ioc.core, Self::process);
        self.each(IocType::Domains, &iocs.domains, |ioc| &ioc.core, Self::domain);
        self.each(IocType::Urls, &iocs.urls, |ioc| &ioc.core, Self::url);
        self.each(IocType::Ips, &iocs.ips, |ioc| &ioc.core, Self::ip);
        self.each(IocType::Mutexes, &iocs.mutexes, |ioc| &ioc.core, Self::mutex);
        self.each(IocType::Registry, &iocs.registry, |ioc| &ioc.core, Self::registry_key);
        self.each(IocType::Emails, &iocs.emails, |ioc| &ioc.core, Self::email);
        self.each(IocType::EmailAddresses, &iocs.email_addresses, |ioc| &ioc.core, Self::email_address);
    }

    /// Maps the entries of one list that count. One with a bad value costs nothing but itself.
    fn each<T>(
        &mut self,
        kind: IocType,
        iocs: &'a [T],
        core: impl Fn(&'a T) -> &'a IocCore,
        map: impl Fn(&mut Self, &T, &Context) -> Result<(), LeftOutReason>,
    ) {
        if !self.settings.ioc_types.contains(&kind) {
            return;
        }
        for ioc in iocs {
            if is_wanted(core(ioc), self.settings) {
                let context = self.shared_context(core(ioc));
                let mapped = map(self, ioc, &context);
                if self.valid(mapped).is_some() {
                    self.count(kind.as_str());
                }
            }
        }
    }

    fn process(&mut self, ioc: &ProcessIoc, context: &Context) -> Result<(), LeftOutReason> {
        // Kept to the last space: the platform's id is made of exactly this text.
        let command_line = values::non_empty(ioc.cmd_line.as_deref())?.to_owned();
        let names = markdown_list(ioc.process_names.iter().map(String::as_str));
        let found = Found {
            pattern: pattern::equals("process:command_line", &command_line),
            former_id: None,
            name: command_line.clone(),
            details: sentence("Image", &names),
            value: ObservableValue::Process { command_line },
        };
        self.found(found, context);
        Ok(())
    }

    fn mutex(&mut self, ioc: &MutexIoc, context: &Context) -> Result<(), LeftOutReason> {
        let name = values::non_empty(ioc.name.as_deref())?.to_owned();
        let pattern = pattern::equals("mutex:name", &name);
        self.found(plain(pattern, &name, ObservableValue::Mutex(name.clone())), context);
        Ok(())
    }

    fn registry_key(&mut self, ioc: &RegistryIoc, context: &Context) -> Result<(), LeftOutReason> {
        let key = values::non_empty(ioc.key.as_deref())?.to_owned();
        let pattern = pattern::equals("windows-registry-key:key", &key);
        self.found(plain(pattern, &key, ObservableValue::RegistryKey(key.clone())), context);
        Ok(())
    }

    fn domain(&mut self, ioc: &DomainIoc, context: &Context) -> Result<(), LeftOutReason> {
        let domain = values::domain(ioc.domain.as_deref())?;
        let protocols = markdown_list(ioc.protocols.iter().map(String::as_str));
        let found = Found {
            pattern: pattern::equals("domain-name:value", &domain),
            former_id: None,
            name: domain.clone(),
            details: sentence("Protocols", &protocols),
            value: ObservableValue::DomainName(domain),
        };
        let Pair { observable, indicator } = self.found_on_the_network(found, context);
        for original in &ioc.original_domains {
            if let Some(original) = self.valid(values::domain(Some(original))) {
                let original = self.auxiliary(ObservableValue::DomainName(original));
                self.relate(RelationshipKind::RelatedTo, observable, original);
            }
        }
        self.addresses(RelationshipKind::ResolvesTo, observable, &ioc.ip_addresses);
        self.origins(indicator, &ioc.countries, &ioc.country_codes);
        Ok(())
    }

    fn url(&mut self, ioc: &UrlIoc, context: &Context) -> Result<(), LeftOutReason> {
        let url = values::non_empty(ioc.url.as_deref())?.to_owned();
        let methods = markdown_list(ioc.methods.iter().map(String::as_str));
        let found = Found {
            pattern: pattern::equals("url:value", &url),
            former_id: None,
            name: url.clone(),
            details: sentence("Methods", &methods),
            value: ObservableValue::Url(url),
        };
        let Pair { observable, indicator } = self.found_on_the_network(found, context);
        for original in &ioc.original_urls {
            if let Some(original) = self.valid(values::non_empty(Some(original))) {
                let original = self.auxiliary(ObservableValue::Url(original.to_owned()));
                self.relate(RelationshipKind::RelatedTo, observable, original);
            }
        }
        self.addresses(RelationshipKind::RelatedTo, observable, &ioc.ip_addresses);
        self.origins(indicator, &ioc.countries, &ioc.country_codes);
        Ok(())
    }

    fn ip(&mut self, ioc: &IpIoc, context: &Context) -> Result<(), LeftOutReason> {
        let ip = values::ip(ioc.ip_address.as_deref())?;
        let (path, text) = match &ip {
            Ip::V4(text) => ("ipv4-addr:value", text.clone()),
            Ip::V6(text) => ("ipv6-addr:value", text.clone()),
        };
        let protocols = markdown_list(ioc.protocols.iter().map(String::as_str));
        let found = Found {
            pattern: pattern::equals(path, &text),
            former_id: None,
            name: text,
            details: sentence("Protocols", &protocols),
            value: address(ip),
        };
        let Pair { observable, .. } = self.found_on_the_network(found, context);
        for domain in &ioc.domains {
            if let Some(domain) = self.valid(values::domain(Some(domain))) {
                let domain = self.auxiliary(ObservableValue::DomainName(domain));
                self.relate(RelationshipKind::ResolvesTo, domain, observable);
            }
        }
        for country in self.countries(&ioc.countries, &ioc.country_codes) {
            self.relate(RelationshipKind::LocatedAt, observable, country);
        }
        Ok(())
    }

    fn email(&mut self, ioc: &EmailIoc, context: &Context) -> Result<(), LeftOutReason> {
        let mailbox = values::mailbox(ioc.sender.as_deref())?;
        let subject = ioc.subject.as_deref().map(markdown).unwrap_or_default();
        let recipients = markdown_list(ioc.recipients.iter().map(String::as_str));
        let details =
            [sentence("Sender of an e-mail with subject", &subject), sentence("Recipients", &recipients)];
        self.mailbox(mailbox, details.join(" ").trim(), context);
        Ok(())
    }

    fn email_address(&mut self, ioc: &EmailAddressIoc, context: &Context) -> Result<(), LeftOutReason> {
        let mailbox = values::mailbox(ioc.email_address.as_deref())?;
        let subjects = markdown_list(ioc.subjects.iter().map(String::as_str));
        self.mailbox(mailbox, &sentence("In e-mails with subject", &subjects), context);
        Ok(())
    }

    fn mailbox(&mut self, mailbox: Mailbox, details: &str, context: &Context) {
        let display_name = mailbox.display_name.map(|name| self.dated(name));
        let address = mailbox.address;
        let found = Found {
            pattern: pattern::equals("email-addr:value", &address),
            former_id: None,
            name: address.clone(),
            details: details.to_owned(),
            value: ObservableValue::Email { address, display_name },
        };
        self.found(found, context);
    }

    /// An IOC whose indicator points at the sample's family: VMRay names threats of files, and what these contact would stand
    /// alone.
    fn found_on_the_network(&mut self, found: Found, context: &Context) -> Pair {
        let pair = self.found(found, context);
        if let Some(family) = self.family {
            self.relate(RelationshipKind::Indicates, pair.indicator, family);
        }
        pair
    }

    fn addresses(&mut self, kind: RelationshipKind, source: StixId, addresses: &[String]) {
        for ip in addresses {
            if let Some(ip) = self.valid(values::ip(Some(ip))) {
                let target = self.auxiliary(address(ip));
                self.relate(kind, source, target);
            }
        }
    }

    /// The countries that an indicator has to do with.
    fn origins(&mut self, indicator: StixId, names: &[String], codes: &[String]) {
        for country in self.countries(names, codes) {
            self.relate(RelationshipKind::RelatedTo, indicator, country);
        }
    }
}

fn address(ip: Ip) -> ObservableValue {
    match ip {
        Ip::V4(text) => ObservableValue::Ipv4(text),
        Ip::V6(text) => ObservableValue::Ipv6(text),
    }
}

fn plain(pattern: String, name: &str, value: ObservableValue) -> Found {
    Found { value, pattern, former_id: None, name: name.to_owned(), details: String::new() }
}

fn sentence(what: &str, list: &str) -> String {
    if list.is_empty() { String::new() } else { format!("{what}: {list}.") }
}
