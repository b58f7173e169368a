# kvmbackup's build: every target starts from a clean checkout on Debian 12. Those that need guests need root.
PREFIX ?= /usr/local
DESTDIR ?=
SHARE := $(PREFIX)/share
HOOKS := $(DESTDIR)$(SHARE)/kvmbackup/hooks
CARGO ?= cargo
# Where units of systemd go. Debian's tools look for those of packages in /lib.
UNITDIR ?= $(PREFIX)/lib/systemd/system
# Where cargo builds, as cargo itself understands the variable.
TARGET := $(or $(CARGO_TARGET_DIR),target)
# zsh looks below /usr/share in another folder than below /usr/local/share.
ZSH ?= $(if $(filter /usr,$(PREFIX)),vendor-completions,site-functions)
# The program that is installed and packaged. Naming another one keeps it from being built.
BIN ?= $(TARGET)/release/kvmbackup
BUILT := $(if $(filter file,$(origin BIN)),build)
# Who is named in the package: `Name <address>`.
MAINTAINER ?= kvmbackup <kvmbackup@users.noreply.github.com>
# Most tests wait for guests, deadlines and other programs. More at once than this only make each one slower.
TEST_THREADS ?= 4
# Minutes for each fuzz target.
FUZZ_MINUTES ?= 10
# Another Debian release to run the guests on, say `make test HOST=trixie`. The environment's HOST is some shells' own.
HOST :=
GUEST_TESTS := --test guests --test field --test fault_libvirtd
# Which tests to run, say `make test T='--test guests lab_smoke::'`: all of them, or all with guests on another release.
T ?=

.PHONY: help build test soak fuzz mutants demo bench pictures lint install deb lab

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# What `kvmbackup_build_info` says the program was built from; without git, or outside of a checkout, it is "unknown".
build: export KVMBACKUP_REVISION ?= $(shell git describe --always --dirty --exclude '*' 2>/dev/null)
build: ## build the release binary
	$(CARGO) build --locked --release

test: export KVMBACKUP_LAB_HOST = $(HOST)
test: T := $(or $(T),$(if $(HOST),$(GUEST_TESTS)))
test: lab ## install what is missing, run every test; HOST=trixie: those with guests, on Debian 13
	$(CARGO) test --locked --no-run $(T)
	tests/lab/times tests/lab/enter $(CARGO) test --locked --no-fail-fast $(T) -- --test-threads=$(TEST_THREADS)

soak: HOST := trixie
soak: lab ## run the long tests as well, on Debian 13 and with the newest restic too, and print the matrix of docs/reliability.md with its figures
	$(CARGO) test --locked --no-run $(T)
	TARGET='$(TARGET)' THREADS=$(TEST_THREADS) tests/lab/soak '$(CARGO) test --locked $(T)' $(HOST) '$(CARGO) test --locked $(or $(T),$(GUEST_TESTS))' \
		'$(CARGO) test --locked $(or $(T),--lib --test program)'

# Needs cargo-mutants. Hours: each change is a build and a run of the fast tests. .cargo/mutants.toml says which may go unnoticed, and why.
mutants: ## change the code in every small way; the fast tests must notice
	$(CARGO) mutants --timeout 300

demo: lab build ## back up, verify, restore and boot a guest before your eyes
	tests/lab/demo

bench: lab build ## measure against the peers
	tests/lab/bench
	tests/lab/bench-repository
	tests/lab/bench-s3

# The lab installs chromium. Only this target needs pngquant.
pictures: lab ## take the screenshots of README.md again, into docs/images
	command -v pngquant || apt-get install -qq --no-install-recommends pngquant
	KVMBACKUP_PICTURES='$(CURDIR)/docs/images' $(CARGO) test --locked --test program pictures::
	cd docs/images && pngquant --force --strip --speed 1 --nofs --ext .png 16 status-page.png mail.png

# Needs a nightly compiler and cargo-fuzz. Two at a time. Threads of a fake server end after the target does: no leaks are looked for.
fuzz: ## run every fuzz target; FUZZ_MINUTES=10
	cd fuzz && $(CARGO) +nightly fuzz build
	cd fuzz && mkdir -p $(patsubst fuzz/fuzz_targets/%.rs,found/%,$(wildcard fuzz/fuzz_targets/*.rs))
	cd fuzz && ls found | ASAN_OPTIONS=detect_leaks=0 xargs -P 2 -I TARGET $(CARGO) +nightly fuzz run TARGET found/TARGET corpus/TARGET -- \
		-max_total_time=$$(($(FUZZ_MINUTES) * 60)) -rss_limit_mb=1024 -malloc_limit_mb=512 -timeout=120

lint: ## formatting, warnings, documentation, licenses of dependencies
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps
	$(CARGO) deny --locked check licenses bans sources

install: $(BUILT) ## install program, manual, completions, units, hooks, alerts, dashboard, documents; PREFIX=/usr/local, DESTDIR=
	install -D -m 755 $(BIN) $(DESTDIR)$(PREFIX)/bin/kvmbackup
	install -d $(DESTDIR)$(SHARE)/man/man1
	$(BIN) man $(DESTDIR)$(SHARE)/man/man1
	install -d $(DESTDIR)$(SHARE)/bash-completion/completions $(DESTDIR)$(SHARE)/zsh/$(ZSH)
	install -d $(DESTDIR)$(SHARE)/fish/vendor_completions.d $(DESTDIR)$(SHARE)/doc/kvmbackup/examples
	$(BIN) completions bash >$(DESTDIR)$(SHARE)/bash-completion/completions/kvmbackup
	$(BIN) completions zsh >$(DESTDIR)$(SHARE)/zsh/$(ZSH)/_kvmbackup
	$(BIN) completions fish >$(DESTDIR)$(SHARE)/fish/vendor_completions.d/kvmbackup.fish
	install -d $(DESTDIR)$(UNITDIR)
	install -m 644 packaging/systemd/* $(DESTDIR)$(UNITDIR)/
	sed -i 's|/usr/bin/kvmbackup|$(PREFIX)/bin/kvmbackup|' $(patsubst packaging/systemd/%,$(DESTDIR)$(UNITDIR)/%,$(wildcard packaging/systemd/*.service))
	install -d $(HOOKS)/guest/fsfreeze-hook.d
	install -m 644 hooks/README.md hooks/session.bash $(HOOKS)/
	install -m 755 $(filter-out %.md %.bash hooks/guest,$(wildcard hooks/*)) $(HOOKS)/
	install -m 755 $(filter-out hooks/guest/fsfreeze-hook.d,$(wildcard hooks/guest/*)) $(HOOKS)/guest/
	install -m 755 $(wildcard hooks/guest/fsfreeze-hook.d/*) $(HOOKS)/guest/fsfreeze-hook.d/
	install -d $(DESTDIR)$(SHARE)/kvmbackup/alerts $(DESTDIR)$(SHARE)/kvmbackup/dashboards
	install -m 644 alerts/*.yml $(DESTDIR)$(SHARE)/kvmbackup/alerts/
	install -m 644 dashboards/*.json $(DESTDIR)$(SHARE)/kvmbackup/dashboards/
	install -d $(DESTDIR)$(SHARE)/kvmbackup/templates
	install -m 644 src/mail/templates/*.hbs $(DESTDIR)$(SHARE)/kvmbackup/templates/
	install -m 644 README.md CHANGELOG.md LICENSE docs/*.md $(DESTDIR)$(SHARE)/doc/kvmbackup/
	install -m 644 packaging/config.example.yml $(DESTDIR)$(SHARE)/doc/kvmbackup/examples/config.yml
	sed 's|/usr/bin/kvmbackup|$(PREFIX)/bin/kvmbackup|' packaging/cron.d.example >$(DESTDIR)$(SHARE)/doc/kvmbackup/examples/cron.d

# Needs debhelper, and no network. The version is that of Cargo.toml, the date that of the last commit.
deb: export SOURCE := $(CURDIR)
deb: export PROGRAM := $(abspath $(BIN))
deb: $(BUILT) ## build a package for Debian 12, into target/deb
	packaging/build-deb '$(TARGET)/deb' '$(MAINTAINER)'

# The lab: libvirt, QEMU and the guest that it boots. A host of another release has no tools to make guests.
lab:
	tests/lab/install
	tests/lab/build-guest
	$(if $(HOST),tests/lab/build-host $(HOST))
	$(if $(HOST),tests/lab/build-database-guest mariadb postgresql)
