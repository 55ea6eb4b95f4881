use super::*;
use std::fs;
use tempfile::TempDir;
use virtual_isa::gate::ProcessorTerms;

/// A folder with an image `web` (of 0x27 pages) and a way to read fleet files in it.
struct Bench {
    folder: TempDir,
    project: Project,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let project =
            Project { root: path.into(), target: path.join("target"), machines: path.join("machines"), own: None };
        let guest = crate::elf::read(&crate::elf::craft::good().bytes()).unwrap();
        let image = crate::image::encode(&guest).unwrap();
        fs::create_dir_all(project.images()).unwrap();
        fs::write(project.image("web"), &image).unwrap();
        fs::write(path.join("own.img"), &image).unwrap();
        Self { folder, project }
    }

    fn read(&self, text: &str) -> Checked<Fleet> {
        self.read_with(text, &Overrides::default())
    }

    fn read_with(&self, text: &str, overrides: &Overrides) -> Checked<Fleet> {
        let file = self.folder.path().join("fleet.toml");
        fs::write(&file, text).unwrap();
        Fleet::load(&file, &self.project, overrides)
    }

    /// Checks that a fleet is refused at a line and field, with words in the problem and in the remedy.
    fn refuses(&self, text: &str, line: usize, field: &str, problem: &str, remedy: &str) {
        let error = self.read(text).unwrap_err();
        let said = error.to_string();
        assert!(said.contains("fleet.toml"), "{said}");
        assert_eq!((error.line, error.field.as_str()), (line, field), "{said}");
        assert!(error.problem.contains(problem) && error.remedy.contains(remedy), "{said}");
    }
}

fn service(line: &str) -> String {
    let mut lines = vec!["[[service]]", "name = \"web\"", "image = \"web\"", "count = 3", "memory = \"4M\""];
    let key = line.split(' ').next().unwrap();
    lines.retain(|l| l.split(' ').next() != Some(key));
    lines.insert(1, line);
    lines.join("\n")
}

#[test]
fn a_good_fleet_is_read_as_written() {
    let fleet = Bench::new()
        .read(
            r#"
            [machine]
            memory = "2G"
            cpus = 2
            [network]
            subnet = "10.0.0.0/8"
            host = "10.64.0.1"
            [[service]]
            name = "web"
            image = "web"
            count = 1000
            memory = "4M"
            args = "body=128"
            [[service]]
            name = "other"
            image = "own.img"
            count = 2
            memory = "1M"
            shares = 50
            "#,
        )
        .unwrap();
    assert_eq!((fleet.memory_bytes, fleet.cpus, fleet.network.prefix_bits), (2 << 30, 2, 8));
    assert_eq!(fleet.nr_vms(), 1002);
    let [web, other] = &fleet.services[..] else { panic!("two services") };
    assert_eq!((web.first_vm, web.memory_pages, web.shares, web.arguments.as_str()), (1, 1024, 100, "body=128"));
    assert_eq!((other.first_vm, other.count, other.shares), (1001, 2, 50));
    assert!(other.image.ends_with("own.img"));
}

#[test]
fn the_command_line_overrides_the_file() {
    let bench = Bench::new();
    let overrides = Overrides {
        memory_bytes: Some(64 << 20),
        cpus: Some(3),
        counts: vec![("web".into(), 9), ("web".into(), 7)],
        ..Overrides::default()
    };
    let fleet = bench.read_with(&service("count = 3"), &overrides).unwrap();
    assert_eq!((fleet.memory_bytes, fleet.cpus, fleet.nr_vms()), (64 << 20, 3, 7));
    let wrong = Overrides { counts: vec![("wbe".into(), 9)], ..Overrides::default() };
    let error = bench.read_with(&service("count = 3"), &wrong).unwrap_err();
    assert!(error.to_string().contains("\"wbe\"") && error.remedy.contains("web"), "{error}");
    let none = Overrides { counts: vec![("web".into(), 0)], ..Overrides::default() };
    assert_eq!(bench.read_with(&service("count = 3"), &none).unwrap_err().problem, "zero VMs");
}

#[test]
fn unknown_keys_and_wrong_types_are_refused() {
    let bench = Bench::new();
    bench.refuses(&service("coutn = 3"), 2, "coutn", "unknown field `coutn`", "correct or remove");
    bench.refuses("[machin]\ncpus = 1\n", 1, "[machin]", "unknown field `machin`", "correct or remove");
    bench.refuses(&service("memory = 4"), 2, "memory", "expected a string", "strings in quotes");
    bench.refuses(&service("count = \"3\""), 2, "count", "invalid type", "whole numbers");
    bench.refuses(&service("count = -1"), 2, "count", "invalid value", "whole numbers");
    bench.refuses("[[service]]\nname = \"web\"\n", 1, "[[service]]", "missing field", "name, image, count and memory");
    bench.refuses("[[service]\n", 1, "[[service]", "", "");
}

#[test]
fn a_fleet_without_vms_is_refused() {
    let bench = Bench::new();
    bench.refuses("", 0, "service", "no service", "[[service]]");
    bench.refuses(&service("count = 0"), 2, "service \"web\": count", "zero VMs", "1 or more");
}

#[test]
fn a_fleet_larger_than_its_subnet_is_refused() {
    let bench = Bench::new();
    let field = "service \"web\": count";
    bench.refuses(&service("count = 2000000"), 2, field, "2000001 VMs", "larger subnet");
    bench.refuses(&service("count = 4294967295"), 2, field, "4294967296 VMs", "at most 1048576");
    let small =
        "[network]\nsubnet = \"10.9.0.0/24\"\nhost = \"10.9.0.1\"\nswitch = \"10.9.0.2\"\nfirst_vm = \"10.9.0.16\"\n";
    bench.refuses(&format!("{small}{}", service("count = 239")), 7, field, "has 239 addresses", "lower the count");
    assert!(bench.read(&format!("{small}{}", service("count = 238"))).is_ok());
}

#[test]
fn bad_networks_are_refused() {
    let bench = Bench::new();
    let with = |line: &str| format!("[network]\n{line}\n{}", service("count = 3"));
    bench.refuses(&with("subnet = \"10.64.0.0\""), 2, "network: subnet", "not a subnet", "10.64.0.0/10");
    bench.refuses(&with("host = \"10.64.0\""), 2, "network: host", "not an IPv4 address", "10.64.0.1");
    bench.refuses(&with("switch = \"10.64.0.1\""), 0, "network", "10.64.0.1 is used twice", "switch");
    bench.refuses(&with("first_vm = \"11.0.0.0\""), 0, "network", "outside the subnet", "first_vm");
    bench.refuses(&with("subnet = \"10.64.0.0/31\""), 0, "network", "1 to 30 bits", "subnet");
}

#[test]
fn names_are_plain_and_unique() {
    let bench = Bench::new();
    let long = service(&format!("name = {:?}", "n".repeat(33)));
    let field = format!("service {:?}: name", "n".repeat(33));
    bench.refuses(&long, 2, &field, "longer than 32 bytes", "1 to 32 letters");
    bench.refuses(&service("name = \"a b\""), 2, "service \"a b\": name", "characters other than", "letters");
    let twice = format!("{}\n{}", service("count = 3"), service("name = \"web\""));
    bench.refuses(&twice, 7, "service \"web\": name", "another service", "its own name");
}

#[test]
fn missing_and_damaged_images_are_refused() {
    let bench = Bench::new();
    let field = "service \"web\": image";
    bench.refuses(&service("image = \"echo\""), 2, field, "there is no image", "`firn build echo`");
    bench.refuses(&service("image = \"./no.img\""), 2, field, "there is no image", "relative to the fleet file");
    let mut image = fs::read(bench.project.image("web")).unwrap();
    image[5000] ^= 1;
    fs::write(bench.project.image("web"), image).unwrap();
    bench.refuses(&service("count = 3"), 4, field, "damaged", "`firn build web`");
}

#[test]
fn bad_sizes_are_refused() {
    let bench = Bench::new();
    let field = "service \"web\": memory";
    bench.refuses(&service("memory = \"4 megs\""), 2, field, "\"4 megs\" is not a size", "\"4M\"");
    bench.refuses(&service("memory = \"4097K\""), 2, field, "not a multiple of the page size", "\"4M\"");
    bench.refuses(&service("memory = \"\""), 2, field, "is not a size", "\"4M\"");
}

#[test]
fn memory_is_enough_for_the_image_and_within_limits() {
    let bench = Bench::new();
    let field = "service \"web\": memory";
    bench.refuses(&service("memory = \"512K\""), 2, field, "outside what a VM can have", "1M to 64G");
    bench.refuses(&service("memory = \"65G\""), 2, field, "outside what a VM can have", "1M to 64G");
    let mut elf = crate::elf::craft::good();
    elf.programs[2].memory_bytes = 0x10_0000;
    let image = crate::image::encode(&crate::elf::read(&elf.bytes()).unwrap()).unwrap();
    fs::write(bench.project.image("web"), image).unwrap();
    bench.refuses(&service("memory = \"1M\""), 2, field, "needs 290 pages", "1160K");
}

#[test]
fn machines_are_within_limits() {
    let bench = Bench::new();
    let with = |line: &str| format!("[machine]\n{line}\n{}", service("count = 3"));
    bench.refuses(&with("memory = \"much\""), 2, "machine: memory", "not a size", "\"2G\"");
    bench.refuses(&with("memory = \"16M\""), 2, "machine: memory", "too small", "32M or more");
    bench.refuses(&with("cpus = 0"), 2, "machine: cpus", "0 processors", "1 to 64");
}

#[test]
fn arguments_and_shares_are_within_limits() {
    let bench = Bench::new();
    let long = service(&format!("args = {:?}", "x".repeat(1025)));
    bench.refuses(&long, 2, "service \"web\": args", "1025 bytes", "at most 1024");
    bench.refuses(&service("shares = 0"), 2, "service \"web\": shares", "zero shares", "1 or more");
    assert!(bench.read(&service(&format!("args = {:?}", "x".repeat(1024)))).is_ok());
}

#[test]
fn a_missing_fleet_file_is_named() {
    let bench = Bench::new();
    let error = Fleet::load(Path::new("no/such.toml"), &bench.project, &Overrides::default()).unwrap_err();
    assert!(error.to_string().contains("no/such.toml: cannot be read"), "{error}");
}

#[test]
fn swap_is_read_as_written() {
    let bench = Bench::new();
    let with = |lines: &str| bench.read(&format!("[machine]\n{lines}\n{}", service("count = 3"))).unwrap().swap;
    let disk = |bytes, iops| Some(Swap { bytes, iops });
    assert_eq!(with("memory = \"64M\""), None);
    assert_eq!(with("swap = \"0\""), None);
    assert_eq!(with("swap = \"4G\""), disk(4 << 30, None));
    assert_eq!(with("swap = \"4M\"\nswap-iops = 5000"), disk(4 << 20, Some(5000)));
    assert_eq!(with("swap = \"256M\"\nswap_iops = 1"), disk(256 << 20, Some(1)));
    assert_eq!(with("swap = \"8192G\"\nswap-iops = 0"), disk(8 << 40, None));
    // Without a disk there is nothing to limit; the disk may come from the command line.
    assert_eq!(with("swap-iops = 7"), None);
}

#[test]
fn the_command_line_overrides_swap() {
    let bench = Bench::new();
    let text = format!("[machine]\nswap = \"1G\"\nswap-iops = 100\n{}", service("count = 3"));
    let read = |swap_bytes, swap_iops| {
        bench.read_with(&text, &Overrides { swap_bytes, swap_iops, ..Overrides::default() }).map(|fleet| fleet.swap)
    };
    let disk = |bytes, iops| Ok(Some(Swap { bytes, iops }));
    assert_eq!(read(None, None), disk(1 << 30, Some(100)));
    assert_eq!(read(Some(2 << 30), None), disk(2 << 30, Some(100)));
    assert_eq!(read(None, Some(5)), disk(1 << 30, Some(5)));
    assert_eq!(read(None, Some(0)), disk(1 << 30, None));
    assert_eq!(read(Some(0), None), Ok(None));
    let error = read(Some(0), Some(5)).unwrap_err();
    assert_eq!((error.line, error.field.as_str()), (0, "--swap-iops"), "{error}");
    assert!(error.problem.contains("no swap disk") && error.remedy.contains("--swap SIZE"), "{error}");
    for (bytes, problem) in [(1 << 20, "1M is too small"), (16 << 40, "too large")] {
        let error = read(Some(bytes), None).unwrap_err();
        assert_eq!((error.line, error.field.as_str()), (0, "--swap"), "{error}");
        assert!(error.problem.contains(problem), "{error}");
    }
}

#[test]
fn bad_swap_is_refused() {
    let bench = Bench::new();
    let with = |line: &str| format!("[machine]\n{line}\n{}", service("count = 3"));
    let field = "machine: swap";
    bench.refuses(&with("swap = \"2M\""), 2, field, "2M is too small for a swap disk", "4M or more");
    bench.refuses(&with("swap = \"4096K\"\nswap = \"4M\""), 3, "swap", "duplicate key", "");
    bench.refuses(&with("swap = \"4T\""), 2, field, "\"4T\" is not a size", "\"2G\"");
    bench.refuses(&with("swap = \"\""), 2, field, "\"\" is not a size", "\"2G\"");
    bench.refuses(&with("swap = \"4097K\""), 2, field, "not a multiple of the page size", "\"2G\"");
    bench.refuses(&with("swap = \"16384G\""), 2, field, "too large for a swap disk", "8192G");
    bench.refuses(&with("swap = \"99999999999999999999G\""), 2, field, "is too large", "\"2G\"");
    bench.refuses(&with("swap = 4"), 2, "swap", "expected a string", "strings in quotes");
    bench.refuses(&with("swap-iops = -1"), 2, "swap-iops", "invalid value", "whole numbers");
    bench.refuses(&with("swap-iops = \"5\""), 2, "swap-iops", "invalid type", "whole numbers");
    bench.refuses(&with("swap_iops = 4294967296"), 2, "swap_iops", "invalid value", "whole numbers");
    bench.refuses(&with("swap-iops = 1\nswap_iops = 2"), 1, "[machine]", "duplicate field", "the same");
    bench.refuses(&with("swop = \"4M\""), 2, "swop", "unknown field `swop`", "correct or remove");
}

#[test]
fn minimums_are_within_memory() {
    let bench = Bench::new();
    let minimum = |line: &str| bench.read(&service(line)).unwrap().services[0].minimum_pages;
    assert_eq!(minimum("shares = 1"), 0);
    assert_eq!(minimum("minimum = \"0\""), 0);
    assert_eq!(minimum("minimum = \"64K\""), 16);
    assert_eq!(minimum("minimum = \"5K\""), 2, "rounded up to whole pages");
    assert_eq!(minimum("minimum = \"4M\""), 1024);
    let field = "service \"web\": minimum";
    bench.refuses(&service("minimum = \"5M\""), 2, field, "\"5M\" is more than the VM's memory", "4M");
    bench.refuses(&service("minimum = \"4097K\""), 2, field, "more than the VM's memory", "4M");
    bench.refuses(&service("minimum = \"64T\""), 2, field, "\"64T\" is not a size", "\"4M\"");
    bench.refuses(&service("minimum = \"64\""), 2, field, "\"64\" is not a size", "\"4M\"");
    bench.refuses(&service("minimum = \"-4K\""), 2, field, "is not a size", "\"4M\"");
    bench.refuses(&service("minimum = 64"), 2, "minimum", "expected a string", "strings in quotes");
    bench.refuses(&service("minumum = \"64K\""), 2, "minumum", "unknown field", "correct or remove");
}

#[test]
fn groups_and_terms_are_read_as_written() {
    let groups = "[[group]]\nname = \"red\"\nshares = 200\nreservation = \"25%\"\nlimit = \"150%\"\n\
                  [[group]]\nname = \"blue\"\n";
    let bench = Bench::new();
    let with = |lines: &str| bench.read(&format!("{groups}{}\n{lines}", service("count = 3"))).unwrap();
    let fleet =
        with("group = \"blue\"\nreservation = \"5%\"\nlimit = \"12.5%\"\nframes_per_s = 7\nbytes_per_s = \"10M\"");
    let red = ProcessorTerms { shares: 200, reservation_ppm: 250_000, limit_ppm: 1_500_000 };
    let blue = ProcessorTerms { shares: 100, reservation_ppm: 0, limit_ppm: 0 };
    let read: Vec<_> = fleet.groups.iter().map(|group| (group.name.as_str(), group.processor)).collect();
    assert_eq!(read, [("red", red), ("blue", blue)]);
    let expected =
        ClassTerms { group: 3, reservation_ppm: 50_000, limit_ppm: 125_000, frames_per_s: 7, bytes_per_s: 10 << 20 };
    assert_eq!(fleet.services[0].terms, expected);
    assert_eq!(with("group = \"red\"").services[0].terms.group, 2);
    assert_eq!(with("").services[0].terms, ClassTerms::DEFAULT);
}

#[test]
fn bad_groups_are_refused() {
    let bench = Bench::new();
    let group = |line: &str| format!("[[group]]\nname = \"red\"\n{line}\n{}", service("count = 3"));
    let field = |key: &str| format!("group \"red\": {key}");
    bench.refuses(&group("shares = 0"), 3, &field("shares"), "zero shares", "1 or more");
    bench.refuses(&group("shares = \"5\""), 3, "shares", "invalid type", "whole numbers");
    bench.refuses(&group("reservation = 25"), 3, "reservation", "expected a string", "strings in quotes");
    bench.refuses(&group("reservation = \"25\""), 3, &field("reservation"), "\"25\" is not a part", "\"25%\"");
    bench.refuses(&group("reservation = \"-1%\""), 3, &field("reservation"), "is not a part", "\"25%\"");
    bench.refuses(&group("reservation = \"6401%\""), 3, &field("reservation"), "too large", "at most 6400%");
    bench.refuses(&group("limit = \"0%\""), 3, &field("limit"), "never run", "leave it out");
    bench.refuses(&group("limit = \"0.00001%\""), 3, &field("limit"), "four decimals", "\"12.5%\"");
    let both = group("reservation = \"30%\"\nlimit = \"20%\"");
    bench.refuses(&both, 4, &field("limit"), "20% is less than the reservation, 30%", "fits into");
    bench.refuses(&group("weight = 5"), 3, "weight", "unknown field", "correct or remove");
    bench.refuses(&group("[[group]]\nname = \"red\""), 4, &field("name"), "another group", "its own name");
    let named = |name: &str| format!("[[group]]\nname = \"{name}\"\n{}", service("count = 3"));
    bench.refuses(&named("default"), 2, "group \"default\": name", "always there", "another name");
    bench.refuses(&named("a b"), 2, "group \"a b\": name", "characters other than", "letters");
    bench.refuses("[[group]]\nshares = 1\n", 1, "[[group]]", "missing field", "a group a name");
    let many: String = (0..255).map(|n| format!("[[group]]\nname = \"g{n}\"\n")).collect();
    let last = "group \"g254\": name";
    bench.refuses(&format!("{many}{}", service("count = 3")), 510, last, "more than 254 groups", "fewer");
}

#[test]
fn bad_terms_are_refused() {
    let bench = Bench::new();
    let field = |key: &str| format!("service \"web\": {key}");
    bench.refuses(&service("group = \"red\""), 2, &field("group"), "no group \"red\"", "add a [[group]]");
    let typo = format!("[[group]]\nname = \"blue\"\n{}", service("group = \"bleu\""));
    bench.refuses(&typo, 4, &field("group"), "no group \"bleu\"", "the groups are: blue");
    bench.refuses(&service("reservation = \"101%\""), 2, &field("reservation"), "one processor at a time", "100%");
    bench.refuses(&service("limit = \"half\""), 2, &field("limit"), "is not a part", "\"25%\"");
    bench.refuses(&service("frames_per_s = \"5\""), 2, "frames_per_s", "invalid type", "whole numbers");
    bench.refuses(&service("frames_per_s = 4294967296"), 2, "frames_per_s", "invalid value", "whole numbers");
    bench.refuses(&service("bytes_per_s = \"10\""), 2, &field("bytes_per_s"), "not a size", "\"4M\"");
    bench.refuses(&service("bytes_per_s = \"4G\""), 2, &field("bytes_per_s"), "too large", "\"4G\"");
    let many: String =
        (1..=1024).map(|n| format!("{}\nframes_per_s = {n}\n", service(&format!("name = \"s{n}\"")))).collect();
    bench.refuses(&many, 0, "service", "1024 different sets of terms", "at most 1023");
}

#[test]
fn services_have_gateways_wherever_these_are_in_the_file() {
    let bench = Bench::new();
    let service = |name: &str, more: &str| {
        format!("[[service]]\nname = \"{name}\"\nimage = \"web\"\ncount = 1\nmemory = \"4M\"\n{more}\n")
    };
    let behind = |name: &str| format!("gateway = \"{name}\"");
    let text = format!(
        "{}{}{}{}",
        service("a", &behind("wall")),
        service("b", ""),
        service("wall", ""),
        service("c", &behind("wall"))
    );
    let vms = |fleet: &Fleet| fleet.services.iter().map(|service| service.gateway).collect::<Vec<_>>();
    assert_eq!(vms(&bench.read(&text).unwrap()), [Some(3), None, None, Some(3)]);
    let gateways = vec![("a".into(), "b".into())];
    let given = Overrides { gateways, ..Overrides::default() };
    assert_eq!(vms(&bench.read_with(&text, &given).unwrap()), [Some(2), None, None, Some(3)]);

    let refuses = |more: &str, problem: &str, remedy: &str| {
        let text = format!("{}{}", service("wall", ""), service("a", more));
        bench.refuses(&text, 12, "service \"a\": gateway", problem, remedy);
    };
    refuses(&behind("wal"), "no service \"wal\"", "wall, a");
    refuses(&behind("a"), "its own gateway", "another one");
    let chain = format!("{}{}{}", service("x", ""), service("y", &behind("x")), service("z", &behind("y")));
    assert!(bench.read(&chain).unwrap_err().problem.contains("\"y\" is behind a gateway itself"));
    let many = format!("{}{}", service("wall", "").replace("count = 1", "count = 2"), service("a", &behind("wall")));
    assert!(bench.read(&many).unwrap_err().remedy.contains("count = 1"));
}
