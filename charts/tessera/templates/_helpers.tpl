{{/* The chart's name as labels carry it. */}}
{{- define "tessera.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Base of the objects' names. Cut so that the longest suffix still fits into 63 characters. */}}
{{- define "tessera.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 46 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 46 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 46 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "tessera.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end -}}

{{- define "tessera.selectorLabels" -}}
{{- if .Values.selectorLabelsOverride -}}
{{- toYaml .Values.selectorLabelsOverride -}}
{{- else -}}
app.kubernetes.io/name: {{ include "tessera.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}
{{- end -}}

{{- define "tessera.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "tessera.selectorLabels" . }}
{{- end -}}

{{/*
Tolerations of a pod: those of the values, and that of the nodes that are held for a compute domain. Without it the
plugin that is replaced there would not come back before the domain ends, and a controller that finds every node
held could never let one go.
*/}}
{{- define "tessera.tolerations" -}}
{{- $held := dict "key" "tessera-dra.github.io/domain" "operator" "Exists" "effect" "NoSchedule" -}}
{{- toYaml (append (default (list) .) $held) -}}
{{- end -}}

{{- define "tessera.image" -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}

{{- define "tessera.serviceAccountBase" -}}
{{- default (include "tessera.fullname" .) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "tessera.kubeletPluginAccount" -}}
{{- include "tessera.serviceAccountBase" . }}-kubelet-plugin
{{- end -}}

{{- define "tessera.sessionHostAccount" -}}
{{- include "tessera.serviceAccountBase" . }}-session-host
{{- end -}}

{{- define "tessera.controllerAccount" -}}
{{- include "tessera.serviceAccountBase" . }}-controller
{{- end -}}

{{/* The version of resource.k8s.io, without its group. */}}
{{- define "tessera.resourceApiVersion" -}}
{{- if .Values.resourceApiVersion -}}
{{- trimPrefix "resource.k8s.io/" .Values.resourceApiVersion -}}
{{- else if .Capabilities.APIVersions.Has "resource.k8s.io/v1" -}}
v1
{{- else if .Capabilities.APIVersions.Has "resource.k8s.io/v1beta2" -}}
v1beta2
{{- else if .Capabilities.APIVersions.Has "resource.k8s.io/v1beta1" -}}
v1beta1
{{- else -}}
{{- fail "This cluster does not serve resource.k8s.io: it needs Dynamic Resource Allocation, on by default since Kubernetes 1.34. Where it is served but not seen from here, set resourceApiVersion." -}}
{{- end -}}
{{- end -}}

{{/*
Whether an update of the plugin runs a node's new pod beside its old one: "true" or nothing. A
maxUnavailable wins over maxSurge, of which Kubernetes takes only one: values for the reference chart
have it, and our own default has the other.
*/}}
{{- define "tessera.surges" -}}
{{- $strategy := default dict .Values.kubeletPlugin.updateStrategy -}}
{{- $rolling := default dict $strategy.rollingUpdate -}}
{{- $none := list "0" "0%" -}}
{{- $stops := not (has (toString (default 0 $rolling.maxUnavailable)) $none) -}}
{{- $adds := not (has (toString (default 0 $rolling.maxSurge)) $none) -}}
{{- if and (eq (default "RollingUpdate" $strategy.type) "RollingUpdate") $adds (not $stops) -}}
true
{{- end -}}
{{- end -}}

{{/* Whether there is a plugin at all: "true" or nothing. */}}
{{- define "tessera.hasPlugin" -}}
{{- if or .Values.resources.gpus.enabled .Values.resources.computeDomains.enabled -}}
true
{{- end -}}
{{- end -}}

{{/* Whether memory limits of shares that are in use are moved: "true" or nothing. */}}
{{- define "tessera.hasMemoryAgent" -}}
{{- if and .Values.resources.gpus.enabled .Values.memoryAgent.enabled -}}
true
{{- end -}}
{{- end -}}

{{/* Whether claims say how their shares fare: "true" or nothing. */}}
{{- define "tessera.hasShareStatus" -}}
{{- if and .Values.resources.gpus.enabled .Values.shareStatus.enabled -}}
true
{{- end -}}
{{- end -}}

{{/* Whether session hosts run nvidia-imex: "true" or nothing. */}}
{{- define "tessera.hasSessionHosts" -}}
{{- if and .Values.resources.computeDomains.enabled (ne .Values.resources.computeDomains.imex.mode "hostManaged") -}}
true
{{- end -}}
{{- end -}}

{{/* The socket at which the nvidia-imex that the hosts run is asked whether it is ready; nothing if none is asked. */}}
{{- define "tessera.hostImexSocket" -}}
{{- with .Values.resources.computeDomains -}}
{{- if and .enabled (eq .imex.mode "hostManaged") -}}
{{- .imex.hostSocketPath -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Where the session host of a node says how its session is; its folder is one of the host. */}}
{{- define "tessera.sessionDirectory" -}}
/run/tessera/session
{{- end -}}

{{/* The port of a listening address such as :8080 or [::]:8080. */}}
{{- define "tessera.port" -}}
{{- regexFind "[0-9]+$" . -}}
{{- end -}}

{{/* Annotations of an object that lives only while helm uninstall ends, in the given order. */}}
{{- define "tessera.uninstallHook" -}}
helm.sh/hook: post-delete
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded,hook-failed
{{- end -}}

{{/* The configurations that a claim, a template or a class carries, in CEL. */}}
{{- define "tessera.configurations" -}}
(request.resource.resource == "resourceclaimtemplates" ? object.spec.spec.?devices.?config
: request.resource.resource == "deviceclasses" ? object.spec.?config
: object.spec.?devices.?config).orValue([])
{{- end -}}

{{/* Whether one of them is for gpu.nvidia.com, in CEL. */}}
{{- define "tessera.configuresGpus" -}}
{{ include "tessera.configurations" . }}
.exists(c, c.?opaque.?driver.orValue("") == "gpu.nvidia.com")
{{- end -}}

{{/* The value of a dotted key as JSON; empty where there is none. */}}
{{- define "tessera.valueAt" -}}
{{- $at := .values -}}
{{- $found := true -}}
{{- range splitList "." .key -}}
{{- if and $found (kindIs "map" $at) -}}
{{- $found = hasKey $at . -}}
{{- $at = get $at . -}}
{{- else -}}
{{- $found = false -}}
{{- end -}}
{{- end -}}
{{- if $found -}}
{{- toJson $at -}}
{{- end -}}
{{- end -}}

{{/*
Whether an affinity for nodes ends before it says anything: "true" or nothing. Helm drops keys whose
value is null, so a text that is cut off leaves an empty map behind; Kubernetes would refuse some of
these, and read others as a term that no node meets.
*/}}
{{- define "tessera.affinityIsIncomplete" -}}
{{- if kindIs "map" . -}}
{{- $required := dig "nodeAffinity" "requiredDuringSchedulingIgnoredDuringExecution" nil . -}}
{{- $incomplete := eq (len .) 0 -}}
{{- if hasKey . "nodeAffinity" -}}
{{- $incomplete = not .nodeAffinity -}}
{{- end -}}
{{- if kindIs "map" $required -}}
{{- $terms := default list $required.nodeSelectorTerms -}}
{{- $incomplete = or $incomplete (not $terms) -}}
{{- range $terms -}}
{{- $expressions := list -}}
{{- if kindIs "map" . -}}
{{- $expressions = concat (default list .matchExpressions) (default list .matchFields) -}}
{{- end -}}
{{- $incomplete = or $incomplete (not $expressions) -}}
{{- range $expressions -}}
{{- $incomplete = or $incomplete (not (kindIs "map" .)) (not (and (get . "key") (get . "operator"))) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if $incomplete -}}
true
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Egress of a pod that calls the API server, of which a policy can name the ports alone. */}}
{{- define "tessera.egress" -}}
- ports:
    {{- range .apiServerPorts }}
    - port: {{ . }}
      protocol: TCP
    {{- end }}
# Some clusters put a name for the API server into KUBERNETES_SERVICE_HOST.
- ports:
    - port: 53
      protocol: UDP
    - port: 53
      protocol: TCP
{{- end -}}

{{/* The variable by which programs are told of feature gates, if any is set. */}}
{{- define "tessera.featureGates" -}}
{{- with .Values.featureGates }}
{{- $gates := list }}
{{- range $gate, $value := . }}
{{- $gates = append $gates (printf "%s=%t" $gate $value) }}
{{- end }}
- name: FEATURE_GATES
  value: {{ join "," $gates | quote }}
{{- end }}
{{- end -}}
