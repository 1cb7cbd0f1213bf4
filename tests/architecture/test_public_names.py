"""The public names are few, and a change of them is a decision: it changes this file too."""

from __future__ import annotations

import importlib

import pytest

PUBLIC = {
    "steadynorm": "Agent Client GradientStabilizer Mode PRESETS Settings __version__ attach",
    "steadynorm_contract.audit": "AuditChain AuditEntry AuditList entry_hash revert_to verify",
    "steadynorm_contract.bulk": "Bulk BulkOutcome BulkResponse BulkRow MAX_SELECTED Selection",
    "steadynorm_contract.changes": "Change PRESETS expand parse_assignments",
    "steadynorm_contract.client": (
        "Client ClientError Conflict Forbidden InvalidChange NotFound ServerUnreachable Unauthorized"
    ),
    "steadynorm_contract.codec": (
        "MalformedMessage UnsupportedVersion decode_batch decode_json decode_registration encode_batch encode_json"
    ),
    "steadynorm_contract.discovery": ("DEFAULT_SERVER ServerAddress data_dir find_server find_token is_loopback"),
    "steadynorm_contract.events": "Event EventKind EventList",
    "steadynorm_contract.fleet": "FleetResponse FleetRun FleetSort LastChange Spark",
    "steadynorm_contract.problems": "Problem UNSUPPORTED_VERSION",
    "steadynorm_contract.retention": "Retention RetentionChange RetentionLimits RetentionUpdate",
    "steadynorm_contract.rule": ("Outcome SPIKE_RATIO THROTTLED_TARGET TensorState advance reset spike_ceiling target"),
    "steadynorm_contract.runs": (
        "Applied DesiredView Health RevisionState RunCounters RunDetail RunList RunState RunSummary"
    ),
    "steadynorm_contract.schedules": "MAX_SCHEDULES NewSchedule Schedule ScheduleList ScheduleState",
    "steadynorm_contract.series": "HEATMAP_SIGNALS Heatmap ParameterList ParameterView Series SeriesResponse",
    "steadynorm_contract.settings": (
        "COUNTERS FieldError Mode SETTING_RULES Settings SettingsError Transfer is_increment merge resolve_increments"
    ),
    "steadynorm_contract.signals": "DERIVED PARAMETER_SIGNALS SCALARS Signal signal",
    "steadynorm_contract.telemetry": (
        "AgentCounters AgentNote AppliedReport Desired MAX_BATCH_BYTES MAX_BATCH_ID_LENGTH MAX_NAME_LENGTH "
        "MAX_PARAMETERS NoteKind Parameter ParameterRows ROW_COLUMNS Registered RevisionOutcome RunEnd "
        "RunFinish RunRegistration SCALAR_COLUMNS SCHEMA_VERSION StepScalars TelemetryAck TelemetryBatch "
        "floats_from_bytes floats_to_bytes"
    ),
    "steadynorm_contract.tokens": "TokenInfo",
    "steadynorm_contract.watch_rules": (
        "Comparison Condition MAX_RULES RuleList RuleSet RuleView WATCHED WatchRule parse_condition show_condition"
    ),
    "steadynorm_contract.webhooks": "WebhookEvent WebhookMessage",
}


@pytest.mark.parametrize("module", PUBLIC)
def test_a_module_exports_exactly_its_public_names(module: str) -> None:
    loaded = importlib.import_module(module)
    assert sorted(loaded.__all__) == sorted(PUBLIC[module].split())
    for name in loaded.__all__:
        assert getattr(loaded, name) is not None
