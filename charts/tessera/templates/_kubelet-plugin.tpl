{{/*
A container of the plugin, for one driver: a dict of root, name, driver, values, endpoint, suffix (of its
ports' names) and livenessPeriod.
*/}}
{{- define "tessera.kubeletPluginContainer" -}}
{{- $root := .root -}}
{{- $plugin := .root.Values.kubeletPlugin -}}
{{- $surges := include "tessera.surges" .root -}}
{{- $health := int .values.healthcheckPort -}}
- name: {{ .name }}
  image: {{ include "tessera.image" $root }}
  imagePullPolicy: {{ $root.Values.image.pullPolicy }}
  command: [tessera-kubelet-plugin, --drivers={{ .driver }}]
  env:
    - name: NODE_NAME
      valueFrom:
        fieldRef:
          fieldPath: spec.nodeName
    {{- if $surges }}
    # Gives the sockets of each pod names of their own.
    - name: POD_UID
      valueFrom:
        fieldRef:
          fieldPath: metadata.uid
    {{- end }}
    - name: NAMESPACE
      valueFrom:
        fieldRef:
          fieldPath: metadata.namespace
    - name: CDI_ROOT
      value: /var/run/cdi
    - name: NVIDIA_DRIVER_ROOT
      value: {{ $root.Values.nvidiaDriverRoot | quote }}
    - name: DRIVER_ROOT_CTR_PATH
      value: /driver-root
    {{- with $root.Values.nvidiaCDIHookPath }}
    - name: NVIDIA_CDI_HOOK_PATH
      value: {{ . | quote }}
    {{- end }}
    {{- if eq .driver "gpu" }}
    {{- with $root.Values.consumableShares }}
    - name: CONSUMABLE_SHARES
      value: {{ ternary . (int64 .) (kindIs "string" .) | quote }}
    {{- end }}
    {{- if include "tessera.hasMemoryAgent" $root }}
    - name: MEMORY_AGENT
      value: "true"
    {{- end }}
    {{- if include "tessera.hasShareStatus" $root }}
    - name: SHARE_STATUS
      value: "true"
    {{- end }}
    {{- end }}
    {{- with $plugin.hostLdconfigPath }}
    - name: LDCONFIG_PATH
      value: {{ . | quote }}
    {{- end }}
    - name: KUBELET_REGISTRAR_DIRECTORY_PATH
      value: {{ $plugin.kubeletRegistrarDirectoryPath | quote }}
    - name: KUBELET_PLUGINS_DIRECTORY_PATH
      value: {{ $plugin.kubeletPluginsDirectoryPath | quote }}
    - name: STATE_DIRECTORY_PATH
      value: /run/tessera
    - name: HEALTHCHECK_PORT
      value: {{ $health | quote }}
    {{- if $plugin.metrics.enabled }}
    - name: HTTP_ENDPOINT
      value: {{ .endpoint | quote }}
    - name: METRICS_PATH
      value: {{ $plugin.metrics.metricsPath | quote }}
    {{- end }}
    {{- if eq .driver "compute-domain" }}
    {{- with $root.Values.altProcDevices }}
    - name: ALT_PROC_DEVICES_PATH
      value: /alt-proc/{{ base . }}
    {{- end }}
    - name: GPU_CLIQUE_LABEL_ENABLED
      value: {{ .values.gpuCliqueLabelEnabled | quote }}
    {{- if include "tessera.hasSessionHosts" $root }}
    - name: SESSION_SOCKET
      value: {{ include "tessera.sessionDirectory" $root }}/session.sock
    {{- end }}
    {{- with include "tessera.hostImexSocket" $root }}
    - name: IMEX_HOST_SOCKET_PATH
      value: {{ . | quote }}
    - name: IMEX_HOST_SOCKET_CTR_PATH
      value: /host-imex/{{ base . }}
    {{- end }}
    {{- end }}
    {{- include "tessera.featureGates" $root | nindent 4 }}
    - name: LOG_VERBOSITY
      value: {{ $root.Values.logVerbosity | quote }}
    - name: LOG_FORMAT
      value: {{ $root.Values.logFormat | quote }}
    {{- with .values.env }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- if or (ge $health 0) $plugin.metrics.enabled }}
  ports:
    {{- if ge $health 0 }}
    - name: health{{ .suffix }}
      containerPort: {{ $health }}
    {{- end }}
    {{- if $plugin.metrics.enabled }}
    - name: metrics{{ .suffix }}
      containerPort: {{ include "tessera.port" .endpoint }}
    {{- end }}
  {{- end }}
  {{- if ge $health 0 }}
  # Ten minutes for a driver that is still being installed.
  startupProbe:
    grpc:
      port: {{ $health }}
      service: liveness
    periodSeconds: 1
    timeoutSeconds: 5
    failureThreshold: 600
  livenessProbe:
    grpc:
      port: {{ $health }}
      service: liveness
    periodSeconds: {{ .livenessPeriod }}
    timeoutSeconds: 10
    failureThreshold: 3
  readinessProbe:
    grpc:
      port: {{ $health }}
      service: readiness
    periodSeconds: 2
    timeoutSeconds: 5
  {{- end }}
  {{- with .values.securityContext }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .values.resources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  volumeMounts:
    - name: registrar
      mountPath: {{ $plugin.kubeletRegistrarDirectoryPath }}
    # The same path as on the host: CDI specs name the hook that lies in it.
    - name: plugins
      mountPath: {{ $plugin.kubeletPluginsDirectoryPath }}
    - name: cdi
      mountPath: /var/run/cdi
    - name: state
      mountPath: /run/tessera
    # A driver that is installed or replaced while the plugin runs appears in it.
    - name: driver-root
      mountPath: /driver-root
      readOnly: true
      mountPropagation: HostToContainer
    {{- if and (eq .driver "compute-domain") (include "tessera.hostImexSocket" $root) }}
    # The socket's folder, so that one that is made anew is seen.
    - name: host-imex
      mountPath: /host-imex
      readOnly: true
      mountPropagation: HostToContainer
    {{- end }}
    {{- if and (eq .driver "compute-domain") $root.Values.altProcDevices }}
    # The file's folder, so that a file which is replaced is seen.
    - name: alt-proc
      mountPath: /alt-proc
      readOnly: true
    {{- end }}
{{- end -}}

{{/* The container that moves memory limits. */}}
{{- define "tessera.memoryAgentContainer" -}}
{{- $agent := .Values.memoryAgent -}}
- name: memory-agent
  image: {{ include "tessera.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [tessera-agent]
  env:
    - name: NVIDIA_DRIVER_ROOT
      value: {{ .Values.nvidiaDriverRoot | quote }}
    - name: DRIVER_ROOT_CTR_PATH
      value: /driver-root
    - name: STATE_DIRECTORY_PATH
      value: /run/tessera
    - name: MEMORY_AGENT_INTERVAL
      value: {{ $agent.interval | quote }}
    - name: HTTP_ENDPOINT
      value: {{ $agent.httpEndpoint | quote }}
    - name: METRICS_PATH
      value: {{ .Values.kubeletPlugin.metrics.metricsPath | quote }}
    - name: LOG_VERBOSITY
      value: {{ .Values.logVerbosity | quote }}
    - name: LOG_FORMAT
      value: {{ .Values.logFormat | quote }}
    {{- with $agent.env }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  ports:
    - name: metrics-memory
      containerPort: {{ include "tessera.port" $agent.httpEndpoint }}
  livenessProbe:
    httpGet:
      path: /healthz
      port: metrics-memory
    periodSeconds: 30
    timeoutSeconds: 5
    failureThreshold: 3
  {{- with $agent.securityContext }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $agent.resources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  volumeMounts:
    # Records, notes and lock files of the plugin.
    - name: state
      mountPath: /run/tessera
      readOnly: true
    - name: driver-root
      mountPath: /driver-root
      readOnly: true
      mountPropagation: HostToContainer
    # It calls no API server: nothing lies where the account's token would.
    - name: no-token
      mountPath: /var/run/secrets/kubernetes.io/serviceaccount
      readOnly: true
{{- end -}}
