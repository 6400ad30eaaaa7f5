#!/usr/bin/env bash
# Sees to it that the programs are there that the build, the demo and (with the argument `test`) the
# tests, (with `cluster`) real nodes call. As root on Debian or Ubuntu it installs what is missing, else
# it prints the line to type.
set -euo pipefail

# program:package
needed=(
  cc:gcc              # the linker, and the C parts of zstd, xz and ring
  mkfs.ext4:e2fsprogs # root file systems
  debugfs:e2fsprogs
  setpriv:util-linux  # children that die with their parent
  setsid:util-linux
)
if [ "${1:-}" = test ]; then
  needed+=(
    losetup:mount     # slots on block devices, where root allows
    mkswap:util-linux
    partx:util-linux
    unshare:util-linux
    sgdisk:gdisk      # partition tables
    script:bsdutils   # GRUB's own interpreter over the shipped grub.cfg
    dbus-daemon:dbus-daemon # a system bus to ask for a reboot
    zstd:zstd         # what anybody unpacks a packed image with
    grub-emu:grub-emu
    grub-script-check:grub-common
    docker-registry:docker-registry # images from a registry
  )
fi

# Real nodes are root's; the tests skip theirs without it.
if [ "${1:-}" = cluster ] || { [ "${1:-}" = test ] && [ "$(id -u)" = 0 ]; }; then
  needed+=(
    losetup:mount
    partx:util-linux
    unshare:util-linux
    nsenter:util-linux
    sgdisk:gdisk
    ip:iproute2
    busybox:busybox-static # workloads' only program
    strip:binutils
    pkg-config:pkg-config  # runc finds libseccomp by it
  )
  real=1
fi

has() { command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ] || [ -x "/sbin/$1" ]; }

missing=()
for pair in "${needed[@]}"; do
  has "${pair%%:*}" || missing+=("${pair##*:}")
done
# Headers have no program to look for; gcc alone does not bring them.
[ -e /usr/include/stdlib.h ] || missing+=(libc6-dev)
[ -z "${real:-}" ] || [ -e /usr/include/seccomp.h ] || missing+=(libseccomp-dev)
# Modules and crates come over https.
[ -e /etc/ssl/certs/ca-certificates.crt ] || [ -e /etc/pki/tls/certs/ca-bundle.crt ] || missing+=(ca-certificates)

# Everything that is wrong is told in one go.
wrong=0

if [ ${#missing[@]} -gt 0 ]; then
  mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
  install="apt-get install -y --no-install-recommends ${missing[*]}"
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    $install
    # This package starts a service, which nobody asked for: the tests run their own.
    case " ${missing[*]} " in
      *" docker-registry "*) systemctl disable --now docker-registry >/dev/null 2>&1 || true ;;
    esac
  else
    echo "These packages are missing. Install them (names are Debian's) and run make again:" >&2
    echo "  sudo $install" >&2
    wrong=1
  fi
fi

if ! command -v cargo >/dev/null; then
  echo "cargo is missing. Install Rust: https://rustup.rs" >&2
  wrong=1
fi
# Go builds the control plane once, where there is none to be found. From 1.21 on it fetches by
# itself the version that go.mod asks for.
cache="${XDG_CACHE_HOME:-$HOME/.cache}/monok8s"
built() { compgen -G "$cache/$1" >/dev/null; }
control_plane() { [ -n "${KUBEBUILDER_ASSETS:-}" ] || command -v kube-apiserver >/dev/null || built 'control-plane/*/kube-apiserver'; }
real_nodes() { built 'control-plane/*/kubelet' && built 'container-runtime/*/runc'; }
if ! control_plane || { [ -n "${real:-}" ] && ! real_nodes; }; then
  found=$(go env GOVERSION 2>/dev/null || true)
  minor=${found#go1.}
  minor=${minor%%[!0-9]*}
  if [ "${minor:-0}" -lt 21 ]; then
    echo "Go 1.21 or newer is missing (found: ${found:-none}), and no Kubernetes control plane is here that would" >&2
    echo "make it unnecessary. Install Go: https://go.dev/dl, or set KUBEBUILDER_ASSETS to a folder with" >&2
    echo "kube-apiserver, etcd, kube-controller-manager and kubectl of Kubernetes 1.34 or newer (real nodes," >&2
    echo "which are tested as root, need Go in any case)." >&2
    wrong=1
  fi
fi
exit $wrong
