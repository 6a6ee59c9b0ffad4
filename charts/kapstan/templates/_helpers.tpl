{{- define "kapstan.fullname" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "kapstan.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "kapstan.selector" -}}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- /* Its own namespace holds every signing key and the operator's credentials, which a pod there could mount. */ -}}
{{- define "kapstan.namespaces" -}}
{{- $own := ternary list (list .Release.Namespace) .Values.clusterWide -}}
{{- $served := .Values.namespaces | default $own | uniq -}}
{{- if and (has .Release.Namespace $served) (or .Values.clusterWide (gt (len $served) 1)) -}}
{{- fail (printf "namespaces: %s is the release's own namespace and holds the signing keys of the others: take it out, or install the release elsewhere" .Release.Namespace) -}}
{{- end -}}
{{ $served | toJson }}
{{- end }}

{{- define "kapstan.podSecurity" -}}
runAsNonRoot: true
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "kapstan.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- /* What is stored in a Secret of the cluster under a key, base64; empty where it is not there. */ -}}
{{- define "kapstan.stored" -}}
{{- $secret := lookup "v1" "Secret" .namespace .name | default dict -}}
{{- index ($secret.data | default dict) .key | default "" -}}
{{- end }}

{{- /* A random secret is made at a first installation only, and only where a cluster can tell that it is the first. */ -}}
{{- define "kapstan.mayGenerate" -}}
{{- if not (lookup "v1" "Namespace" "" "kube-system") -}}
{{- fail (printf "%s is not given, and this rendering sees no cluster that could hold it already: name it in the values (each rendering would make another one, and what has the old one could read and reach nothing)" .) -}}
{{- end -}}
{{- end }}

{{- /* Password of a development service: the given one, else the stored one, else a new one. */ -}}
{{- define "kapstan.devPassword" -}}
{{- $stored := include "kapstan.stored" (dict "namespace" .root.Release.Namespace "name" (printf "%s-dev-services" (include "kapstan.fullname" .root)) "key" (printf "%s-password" .service)) -}}
{{- $given := index .root.Values.devServices .service "password" | default "" -}}
{{- if $given }}{{ $given }}{{ else if $stored }}{{ $stored | b64dec }}{{ else -}}
{{- include "kapstan.mayGenerate" (printf "devServices.%s.password" .service) }}{{ randAlphaNum 32 }}
{{- end }}
{{- end }}
