{{- define "narthex.name" -}}
{{- if contains "narthex" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-narthex" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "narthex.operator" -}}
{{ include "narthex.name" . }}-operator
{{- end }}

{{- define "narthex.fleet" -}}
{{ .Values.fleet.name | default (include "narthex.name" .) }}
{{- end }}

{{- define "narthex.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "narthex.operatorSelector" -}}
app.kubernetes.io/name: narthex
app.kubernetes.io/component: operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "narthex.labels" -}}
{{ include "narthex.operatorSelector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}
