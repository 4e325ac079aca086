#!/usr/bin/env bash
# From nothing to an answer on kind: the image, the real KubeRay chart, our chart, examples/tiny.yaml, curl, and away
# again. Needs docker, kind, kubectl, helm and access to the internet. KEEP=1 leaves the cluster for a look.
set -euo pipefail
cd "$(dirname "$0")/../.."

CLUSTER=${CLUSTER:-trimode-test}
KUBERAY=${KUBERAY:-1.7.0}
IMAGE=trimode:$(sed -n 's/^appVersion: "\(.*\)"$/\1/p' charts/trimode/Chart.yaml)
NAMESPACE=trimode-system
PORT=${PORT:-18000}
WORK=$(mktemp -d)
export KUBECONFIG=$WORK/kubeconfig

say() { printf '\n== %s (%s s)\n' "$*" "$SECONDS"; }

missing() {
  echo "kind-test: $1 is not on the path; see docs/quickstart-kind.md" >&2
  exit 1
}

look() {
  echo "-- what there is, since something failed" >&2
  kubectl get nd,rayservices,pods,services --all-namespaces || true
  kubectl describe nd tiny || true
  kubectl --namespace "$NAMESPACE" logs --selector app.kubernetes.io/name=trimode-operator --tail 80 || true
}

away() {
  status=$?
  [[ $status -eq 0 ]] || look
  [[ -z ${FORWARD:-} ]] || kill "$FORWARD" 2>/dev/null || true
  if [[ ${KEEP:-} ]]; then
    echo "kept: KUBECONFIG=$KUBECONFIG; remove with: kind delete cluster --name $CLUSTER"
  else
    kind delete cluster --name "$CLUSTER" || true
    rm -rf "$WORK"
  fi
  exit "$status"
}

for tool in docker kind kubectl helm curl; do
  command -v "$tool" >/dev/null || missing "$tool"
done
trap away EXIT

say "cluster $CLUSTER"
kind create cluster --name "$CLUSTER" --config charts/kind/cluster.yaml --wait 180s

say "image $IMAGE, with torch for CPUs"
docker build --file Containerfile --tag "$IMAGE" --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu .
kind load docker-image "$IMAGE" --name "$CLUSTER"

say "KubeRay $KUBERAY"
helm install kuberay-operator kuberay-operator --repo https://ray-project.github.io/kuberay-helm/ \
  --version "$KUBERAY" --namespace kuberay-system --create-namespace --wait --timeout 5m

say "trimode"
helm install trimode charts/trimode --namespace "$NAMESPACE" --create-namespace --wait --timeout 5m
helm test trimode --namespace "$NAMESPACE" --timeout 3m

say "examples/tiny.yaml"
kubectl apply --filename examples/tiny.yaml
kubectl wait nd/tiny --for=condition=Ready --timeout=15m
kubectl get nd --output wide

say "a question"
kubectl port-forward service/tiny-router "$PORT:8000" >"$WORK/forward.log" &
FORWARD=$!
for _ in $(seq 60); do
  ! curl --silent --fail --output /dev/null "http://127.0.0.1:$PORT/v1/models" || break
  sleep 1
done
answer=$(curl --silent --show-error --fail "http://127.0.0.1:$PORT/v1/chat/completions" \
  --header 'content-type: application/json' \
  --data '{"model": "tiny", "messages": [{"role": "user", "content": "what is trimode?"}]}')
echo "$answer"
[[ $answer == *'"content"'* ]]

say "another mode, without a restart"
before=$(kubectl get pods --selector app.kubernetes.io/instance=tiny --output jsonpath='{.items[*].metadata.uid}')
kubectl apply --filename examples/tiny-manual.yaml
kubectl wait nd/tiny --for=jsonpath='{.status.decision.point}'=S8 --timeout=60s
after=$(kubectl get pods --selector app.kubernetes.io/instance=tiny --output jsonpath='{.items[*].metadata.uid}')
[[ $before == "$after" ]]

say "away"
kill "$FORWARD"
FORWARD=
kubectl delete nd tiny --timeout 10m
left=$(kubectl get rayservices,deployments,services,configmaps,secrets --selector app.kubernetes.io/instance=tiny --output name)
[[ -z $left ]] || { echo "still there: $left" >&2; exit 1; }
helm uninstall trimode --namespace "$NAMESPACE" --wait
left=$(kubectl get all,configmaps,secrets,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings,networkpolicies \
  --all-namespaces --selector app.kubernetes.io/instance=trimode --output name)
[[ -z $left ]] || { echo "still there: $left" >&2; exit 1; }
kubectl get crd nemotrondeployments.trimode.dev

say "done"
