"""All tables of README and docs, by name."""

from bench.tables.quality_tables import QUALITY_TABLES
from bench.tables.reason_tables import REASON_TABLES
from bench.tables.reliability_tables import RELIABILITY_TABLES
from bench.tables.speed_tables import SPEED_TABLES
from bench.tables.table1_tables import TABLE1_TABLES

TABLES = {
    **QUALITY_TABLES,
    **REASON_TABLES,
    **TABLE1_TABLES,
    **SPEED_TABLES,
    **RELIABILITY_TABLES,
}
