use super::*;
use std::fs;
use tempfile::TempDir;

/// A folder with an image `web` (of 0x27 pages) and a way to read fleet files in it.
struct Bench {
    folder: TempDir,
    project: Project,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let project = Project { root: path.into(), target: path.join("target"), machines: path.join("machines") };
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
    let overrides =
        Overrides { memory_bytes: Some(64 << 20), cpus: Some(3), counts: vec![("web".into(), 9), ("web".into(), 7)] };
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
