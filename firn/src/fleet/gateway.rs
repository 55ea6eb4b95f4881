//! Which services are behind a gateway, and which VM that is.

use super::{Checked, RawService, Service, Source};
use toml::Spanned;
use virtual_isa::limits::MAX_GATEWAYS;

/// Sets the gateway of each service that is to have one: what the file says, or what is given instead.
pub(super) fn set(
    source: &Source<'_>,
    raw: &[Spanned<RawService>],
    given: &[(String, String)],
    services: &mut [Service],
) -> Checked<()> {
    let mut found = Vec::new();
    for (service, raw) in services.iter().zip(raw) {
        let field = format!("service {:?}: gateway", service.name);
        let of_file = raw.get_ref().gateway.as_ref().map(|name| (name.get_ref().as_str(), name.span().start));
        let of_line = given.iter().rfind(|(behind, _)| *behind == service.name).map(|(_, name)| (name.as_str(), 0));
        let Some((name, at)) = of_line.or(of_file) else {
            found.push(None);
            continue;
        };
        let error = |problem: String, remedy: &str| source.error(at, &field, problem, remedy);
        let Some(place) = services.iter().position(|other| other.name == name) else {
            let names: Vec<_> = services.iter().map(|service| service.name.as_str()).collect();
            return Err(error(
                format!("there is no service {name:?}"),
                &format!("the services are: {}", names.join(", ")),
            ));
        };
        if services[place].name == service.name {
            return Err(error("a service cannot be its own gateway".into(), "name another one, with one VM"));
        }
        if services[place].count != 1 {
            let problem = format!("service {name:?} has {} VMs", services[place].count);
            return Err(error(
                problem,
                "a gateway is one VM: give that service count = 1, or have several of one VM each",
            ));
        }
        found.push(Some((place, at)));
    }
    if found.iter().flatten().count() > MAX_GATEWAYS as usize {
        let problem = format!("more than {MAX_GATEWAYS} services have a gateway");
        return Err(source.whole("service", problem, "have fewer services, each with more VMs"));
    }
    for (place, at) in found.iter().flatten() {
        if found[*place].is_some() {
            let problem = format!("the gateway {:?} is behind a gateway itself", services[*place].name);
            return Err(source.error(
                *at,
                "service: gateway",
                problem,
                "a gateway is behind nobody: remove one of the two",
            ));
        }
    }
    let vms: Vec<_> = found.iter().map(|found| found.map(|(place, _)| services[place].first_vm)).collect();
    for (service, vm) in services.iter_mut().zip(vms) {
        service.gateway = vm;
    }
    Ok(())
}
