# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Access to Debian suites other than the machine's own, from the mirror that
# the machine is configured with. The machine's own sources, lists and packages
# stay as they are. To be sourced.

# Prints the URI of the machine's Debian mirror.
debian_mirror() {
	local codename mirror
	# shellcheck source=/dev/null
	codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
	# shellcheck disable=SC2016 # APT's own variable
	mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' \
		"Codename: $codename" 'Component: main' 2>/dev/null | head -n 1)
	if [ -z "$mirror" ]; then
		echo "No Debian mirror found: APT on this machine has no source for the suite" \
			"'$codename', component main. Add one and run 'apt-get update'." >&2
		return 1
	fi
	echo "${mirror%/}"
}

# Prints what decides how APT on this machine reaches its mirror, a setting a line.
debian_apt_settings() {
	apt-config dump | grep -E '^(Acquire::http::Proxy|Acquire::https::|Acquire::Check-)' |
		grep -v ' "";$' || true
}

# debian_apt DIR SUITE… -- ARGUMENTS: apt-get on the given suites only, with its
# state in DIR: what this machine has installed does not matter. The lists are
# fetched on the first call for DIR. debian_apt_cache: the same for apt-cache.
debian_apt() {
	local dir=$1 suite mirror
	local keyring=/usr/share/keyrings/debian-archive-keyring.gpg
	shift
	mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial"
	mirror=$(debian_mirror) || return 1
	: >"$dir/sources.list.new"
	while [ "$1" != -- ]; do
		suite=$1
		printf '%s [signed-by=%s] %s %s main\n' deb "$keyring" "$mirror" "$suite" \
			deb-src "$keyring" "$mirror" "$suite" >>"$dir/sources.list.new"
		shift
	done
	shift
	set -- -o "Dir::Etc::sourcelist=$dir/sources.list" -o Dir::Etc::sourceparts=/dev/null \
		-o "Dir::State::Lists=$dir/lists" -o "Dir::Cache=$dir/cache" \
		-o Dir::State::status=/dev/null -o APT::Sandbox::User="$(id -un)" -q "$@"
	if ! cmp -s "$dir/sources.list.new" "$dir/sources.list" || [ ! -e "$dir/fetched" ]; then
		mv "$dir/sources.list.new" "$dir/sources.list"
		rm -f "$dir/fetched"
		apt-get "${@:1:12}" update >&2 || return 1
		touch "$dir/fetched"
	fi
	rm -f "$dir/sources.list.new"
	"${debian_apt_tool:-apt-get}" "$@"
}

debian_apt_cache() {
	debian_apt_tool=apt-cache debian_apt "$@"
}
