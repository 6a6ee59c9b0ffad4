"""How a node of our own is set: addresses, configuration files and the daemons' command lines.

Pure text: nothing is started here. ``node`` writes the files and starts the daemons in the order of ``DAEMONS``.
Each odd-looking setting says what it cures; they were found one by one on small virtual machines.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.cluster import cgroups, tools

NODE = "node1"
LINK = "kapstan0"  # the machine's end of the link to the node; the node's end is called uplink
HOST_ADDRESS = "198.51.100.1"
NODE_ADDRESS = "198.51.100.2"
LINK_PREFIX = 30
POD_SUBNET = "198.18.0.0/24"
SERVICE_SUBNET = "198.19.0.0/16"
KUBERNETES_SERVICE = "198.19.0.1"
DNS_SERVICE = "198.19.0.10"
SERVER = f"https://{NODE_ADDRESS}:6443"
PAUSE_IMAGE = "kapstan.test/pause:1"
BASE_IMAGE = "kapstan.test/base:1"

API_SERVER_NAMES = (
    f"IP:{NODE_ADDRESS},IP:127.0.0.1,IP:{KUBERNETES_SERVICE},"
    "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
)
CLIENTS = {
    "admin": "/O=system:masters/CN=admin",
    "controller-manager": "/CN=system:kube-controller-manager",
    "scheduler": "/CN=system:kube-scheduler",
    "kubelet": f"/O=system:nodes/CN=system:node:{NODE}",
    "proxy": "/CN=system:kube-proxy",
}

# The kubelet sets these for the whole machine; ``down`` puts them back.
KERNEL_SETTINGS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)


def socket(root: Path) -> Path:
    return root / "containerd.sock"


def files(root: Path) -> dict[str, str]:
    """Configuration files by their path below *root*."""
    return {
        "containerd.toml": _containerd(root),
        "cni/10-pods.conflist": _pod_network(root),
        "kubelet.json": _kubelet(root),
        "Corefile": _dns(root),
    }


def _containerd(root: Path) -> str:
    # restrict_oom_score_adj: without CAP_SYS_RESOURCE runc cannot lower the score and no container starts.
    return f"""\
version = 2
root = "{root}/containerd"
state = "{root}/containerd-state"
[grpc]
  address = "{socket(root)}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{root}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{root}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"""


def _pod_network(root: Path) -> str:
    addresses = {
        "type": "host-local",
        "dataDir": f"{root}/addresses",
        "ranges": [[{"subnet": POD_SUBNET}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {"type": "bridge", "bridge": "pods", "isGateway": True, "hairpinMode": True, "ipam": addresses}
    return json.dumps({"cniVersion": "0.4.0", "name": "kapstan-test", "plugins": [bridge]})


def _kubelet(root: Path) -> str:
    return json.dumps(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": f"{root}/pki/ca.crt"},
            },
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{cgroups.name(root)}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "containerRuntimeEndpoint": f"unix://{socket(root)}",
            "clusterDNS": [DNS_SERVICE],
            "clusterDomain": "cluster.local",
            "resolvConf": "/dev/null",
            "tlsCertFile": f"{root}/pki/kubelet-server.crt",
            "tlsPrivateKeyFile": f"{root}/pki/kubelet-server.key",
            # The disk is shared with the rest of the machine and may be nearly full; images cannot be pulled again.
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "0%", "imagefs.available": "0%"},
            "imageGCHighThresholdPercent": 100,
            "nodeLeaseDurationSeconds": 8,  # renewed every two seconds; see controller_manager
            "volumePluginDir": f"{root}/volume-plugins",
            "podLogsDir": f"{root}/pod-logs",
        },
        indent=1,
    )


def _dns(root: Path) -> str:
    return f"""\
.:53 {{
  bind {NODE_ADDRESS}
  errors
  kubernetes cluster.local in-addr.arpa {{
    kubeconfig "{root}/kubeconfig"
  }}
  cache 5
}}
"""


def manifests() -> str:
    """The Service by which pods find the name server, which runs on the node itself."""
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system"},
        "spec": {"clusterIP": DNS_SERVICE, "ports": ports},
    }
    endpoints = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"kube-dns-{NODE}",
            "namespace": "kube-system",
            "labels": {"kubernetes.io/service-name": "kube-dns"},
        },
        "addressType": "IPv4",
        "ports": ports,
        "endpoints": [{"addresses": [NODE_ADDRESS]}],
    }
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": [service, endpoints]})


def etcd(root: Path) -> list[str]:
    clients, peers = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
    return [
        str(tools.path("etcd")),
        f"--data-dir={root}/etcd",
        f"--listen-client-urls={clients}",
        f"--advertise-client-urls={clients}",
        f"--listen-peer-urls={peers}",
        "--unsafe-no-fsync",  # a cluster that dies is brought up anew, never recovered
    ]


def containerd(root: Path) -> list[str]:
    return ["containerd", "-c", f"{root}/containerd.toml"]


def api_server(root: Path) -> list[str]:
    return [
        str(tools.path("kube-apiserver")),
        "--etcd-servers=http://127.0.0.1:2379",
        f"--service-cluster-ip-range={SERVICE_SUBNET}",
        f"--advertise-address={NODE_ADDRESS}",
        f"--tls-cert-file={root}/pki/apiserver.crt",
        f"--tls-private-key-file={root}/pki/apiserver.key",
        f"--client-ca-file={root}/pki/ca.crt",
        f"--kubelet-client-certificate={root}/pki/admin.crt",
        f"--kubelet-client-key={root}/pki/admin.key",
        "--kubelet-preferred-address-types=InternalIP",  # or logs and exec look the node's name up in DNS
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={root}/pki/sa.pub",
        f"--service-account-signing-key-file={root}/pki/sa.key",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
    ]


def controller_manager(root: Path) -> list[str]:
    return [
        str(tools.path("kube-controller-manager")),
        *_client(root, "controller-manager"),
        f"--service-account-private-key-file={root}/pki/sa.key",
        f"--root-ca-file={root}/pki/ca.crt",
        "--use-service-account-credentials",
        "--leader-elect=false",
        f"--cluster-cidr={POD_SUBNET}",
        "--concurrent-job-syncs=20",
        "--node-monitor-grace-period=16s",  # a node that is lost is known as such within a test's time
        "--node-monitor-period=1s",
    ]


def scheduler(root: Path) -> list[str]:
    return [str(tools.path("kube-scheduler")), *_client(root, "scheduler"), "--leader-elect=false"]


def kubelet(root: Path) -> list[str]:
    return [
        str(tools.path("kubelet")),
        f"--config={root}/kubelet.json",
        f"--kubeconfig={root}/kubelet.kubeconfig",
        f"--hostname-override={NODE}",
        f"--root-dir={root}/kubelet",
        f"--node-ip={NODE_ADDRESS}",
    ]


def proxy(root: Path) -> list[str]:
    return [
        str(tools.path("kube-proxy")),
        f"--kubeconfig={root}/proxy.kubeconfig",
        f"--hostname-override={NODE}",
        "--proxy-mode=nftables",
        f"--cluster-cidr={POD_SUBNET}",
        "--conntrack-max-per-core=0",  # that limit is the machine's, not the namespace's
    ]


def name_server(root: Path) -> list[str]:
    return [str(tools.path("coredns")), "-conf", f"{root}/Corefile"]


def policy_agent(root: Path) -> list[str]:
    return [
        str(tools.path("kube-router")),
        "--run-firewall",
        "--run-router=false",
        "--run-service-proxy=false",
        f"--kubeconfig={root}/kubeconfig",
        f"--hostname-override={NODE}",
        f"--service-cluster-ip-range={SERVICE_SUBNET}",
        "--health-port=0",
        "-v=1",  # says when the rules are written
    ]


def _client(root: Path, name: str) -> list[str]:
    path = f"{root}/{name}.kubeconfig"
    return [f"--kubeconfig={path}", f"--authentication-kubeconfig={path}", f"--authorization-kubeconfig={path}"]
