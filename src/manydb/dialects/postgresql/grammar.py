"""PostgreSQL's statements: which are reads, and which functions and catalogs a read may not touch."""

from manydb.dialects.grammar import (
    KINDS,
    Command,
    Form,
    Grammar,
    Refusal,
    Source,
    functions,
    refuse_into,
    refuse_locks,
    unquote,
)  # fmt: skip
from manydb.errors import Forbidden, SqlSyntax
from manydb.lexer import Lexicon

_QUERY_WORDS = frozenset({"SELECT", "WITH", "VALUES", "TABLE", "("})
_SECRETS = frozenset({
    "pg_authid", "pg_shadow", "pg_user_mapping", "pg_user_mappings", "pg_subscription", "pg_hba_file_rules",
    "pg_ident_file_mappings", "pg_largeobject", "pg_file_settings",
})  # fmt: skip
_SHOWN_WORDS = 5  # SHOW TRANSACTION ISOLATION LEVEL has four

_FUNCTION_RULES = (
    functions(r"pg_sleep.*", "waits"),
    functions(r"pg_(try_)?advisory_.*", "takes or frees a lock"),
    functions(
        r"pg_(read|write|ls|stat)_(binary_)?(file|dir|[a-z_]*dir).* | pg_stat_file | pg_current_logfile | pg_logdir_ls"
        r"| pg_file_(read|write|rename|unlink|sync|length) | lo_(import|export).* | pg_show_all_file_settings"
        r"| pg_hba_file_rules | pg_ident_file_mappings | pg_rotate_logfile.*",
        "reaches the files of the database server",
    ),
    functions(
        r"lo_(close|creat|from_bytea|get|lseek|manage|oid|open|put|tell|truncate|unlink)(e|64)? | loread | lowrite",
        "reads or writes large objects",
    ),
    functions(r"(next|set)val", "moves a sequence", "read the sequence's last_value instead", writes=True),
    functions(r"pg_nextoid", "moves a sequence"),
    functions(r"set_config", "changes a setting", "settings are fixed for reads"),
    functions(r"dblink.* | postgres_fdw_.*", "opens another connection", "register that database as a connection"),
    functions(
        r"(query|table|schema|database|cursor)_to_xml.* | ts_stat | ts_rewrite | crosstab.* | connectby | xpath_table",
        "runs SQL given as text or reads whole tables",
        "write that query as a subquery",
    ),
    functions(
        r"pg_(terminate|cancel)_backend | pg_log_(backend_memory_contexts|query_plan|standby_snapshot) | pg_reload_conf"
        r"| pg_promote | pg_switch_(wal|xlog) | pg_create_.* | pg_drop_.* | pg_copy_.* | pg_export_snapshot | pg_notify"
        r"| pg_(wal|xlog)_replay_(pause|resume) | pg_(start_|stop_)?backup(_start|_stop)?"
        r"| pg_replication_(origin_(?!status).+ | slot_.*)"
        r"| pg_logical_.* | pg_import_system_collations | pg_sync_replication_slots | pg_stop_making_pinned_objects"
        r"| pg_extension_config_dump | binary_upgrade_.* | pg_prewarm | autoprewarm_.* | pg_truncate_visibility_map"
        r"| heap_force_.* | pg_(set|clear|restore)_(relation|attribute)_stats | pg_reset_.* | bt_index_.*"
        r"| verify_heapam"
        r"| brin_(summarize|desummarize)_.* | gin_clean_pending_list | pg_stat_statements_reset"
        r"| pg_buffercache_evict.*"
        r"| pg_get_wal_(record|block|stat|fpi).* | pg_isolation_test_session_is_blocked",
        "acts on the database server",
    ),
    functions(r"pg_stat_(reset.* | clear_snapshot | force_next_flush)", "changes the server's statistics"),
    functions(r"txid_current | pg_current_xact_id", "uses up a transaction id", writes=True),
)

# Volatile in pg_proc because their answer changes, not because they change anything.
_HARMLESS = functions(
    r"random(_normal|_zipfian)? | setseed | gen_random_(uuid|bytes) | gen_salt | normal_rand"
    r"| uuid_generate_v[0-9].* | uuidv[47]"
    r"| clock_timestamp | timeofday | current_query | currval | lastval | pg_.*_size | pg_backend_pid"
    r"| pg_(safe_snapshot_)?blocking_pids"
    r"| pg_is_in_recovery | pg_is_wal_replay_paused | pg_get_wal_replay_pause_state | pg_last_.* | pg_current_wal_.*"
    r"| pg_(database_)?collation_actual_version | pg_jit_available | pg_partition_(tree|ancestors)"
    r"| pg_sequence_last_value"
    r"| pg_stat_get_.* | pg_stat_have_stats | pg_lock_status | pg_prepared_xact"
    r"| pg_xact_(status | commit_timestamp.*)"
    r"| txid_status | pg_notification_queue_usage"
    r"| pg_get_(multixact_members | backend_memory_contexts | shmem_allocations)"
    r"| pg_show_replication_origin_status | pg_control_(checkpoint|init|recovery|system) | pg_stat_statements(_info)?",
    "",
).pattern


def _explain(source: Source) -> Command | Refusal:
    index = 1
    if source.key(1) == "(" and source.key(2) not in _QUERY_WORDS:
        index = source.closing[1] + 1
    else:
        while source.key(index) in ("ANALYZE", "ANALYSE", "VERBOSE"):
            index += 1
    if source.key(index) in _QUERY_WORDS:
        return Command("explain", index)
    return Refusal(Forbidden, "EXPLAIN here takes a query only", "EXPLAIN [(options)] SELECT …")


def _show(source: Source) -> Command | Refusal:
    form: Form = "show"
    words = source.tokens[1:]
    plain = all(token.kind in ("word", "name") or token.text == "." for token in words)
    if words and plain and len(words) <= _SHOWN_WORDS:
        return Command(form)
    return Refusal(Forbidden, "SHOW takes the name of one setting", "SHOW name")


def _unicode_names(source: Source) -> Refusal | None:
    for token in source.tokens:
        if token.kind == "name" and token.text[0] in "uU":
            return Refusal(SqlSyntax, 'U&"…" hides which name is meant', 'write the name in plain "…" quotes')
    return None


def _secrets(source: Source) -> Refusal | None:
    for token in source.tokens:
        if token.kind in ("word", "name") and unquote(token.text).lower() in _SECRETS:
            return Refusal(
                Forbidden,
                f"{unquote(token.text)} holds credentials or server secrets",
                "pg_roles lists roles without them",
            )
    return None


def _catalogs(source: Source) -> Refusal | None:
    """A superuser may write to the database's own catalogs, and so make anything of it."""
    deletes = [index for index in source.at("FROM") if source.key(index - 1) == "DELETE"]
    for index in (*source.at("UPDATE", "INTO"), *deletes):
        place = index + 1 + (source.key(index + 1) in ("ONLY", "TABLE"))
        parts = [unquote(token.text).lower() for token in source.tokens[place : place + 3]]
        names = parts[:1] if parts[1:2] != ["."] else [parts[0], parts[-1]]
        if any(name.startswith("pg_") or name == "information_schema" for name in names):
            return Refusal(Forbidden, f"{'.'.join(names)} is the database's own catalog", "change it with DDL")
    return None


def _languages(source: Source) -> Refusal | None:
    """Routines in C or an untrusted language run on the server as the server does."""
    for index in source.at("LANGUAGE"):
        named = source.tokens[index + 1] if index + 1 < len(source.tokens) else None
        language = unquote(named.text).strip("'").lower() if named else ""
        if source.key(0) == "CREATE" and language not in ("sql", "plpgsql"):
            return Refusal(Forbidden, f"routines in {language or 'no language'} are not made here", "LANGUAGE plpgsql")
    return None


GRAMMAR = Grammar(
    lexicon=Lexicon(
        escape_strings=True,
        unicode_quotes=True,
        dollar_quotes=True,
        nested_comments=True,
        carriage_return_ends_line=True,
    ),
    query_words=_QUERY_WORDS,
    commands={"EXPLAIN": _explain, "SHOW": _show},
    kinds={**KINDS, "LOAD": "session", "VACUUM": "other", "ANALYZE": "other", "CHECKPOINT": "other"},
    checks=(refuse_into, refuse_locks),
    always=(_unicode_names, _secrets, _languages, _catalogs),
    definable=frozenset(
        {
            "TABLE",
            "VIEW",
            "INDEX",
            "SEQUENCE",
            "SCHEMA",
            "TYPE",
            "DOMAIN",
            "FUNCTION",
            "PROCEDURE",
            "AGGREGATE",
            "TRIGGER",
            "POLICY",
            "RULE",
            "COLLATION",
            "STATISTICS",
            "OPERATOR",
        }
    ),
    function_rules=_FUNCTION_RULES,
    harmless_functions=_HARMLESS,
    fields_call_functions=True,
    quoted_names_fold=False,
    expanding_functions=frozenset({"repeat", "lpad", "rpad", "array_fill"}),
    template_functions=frozenset({"format"}),
    question_is_operator=True,
    parser="postgres",
)
