"""Measure releases and the running system; `python -m bench` lists the commands.

    common/   results files, left-out items, synthetic users, service processes
    quality/  ranking quality, stages of training, thoughts, semantic ids
    finish/   CPU time, scaling and exactness of the online finish
    night/    users per second of the nightly thinking
    load/     load on a service process: latency, CPU, memory, sizing
    chaos/    promises R1 to R10 under faults
    ab/       online experiments, from logs
    tables/   results tables of README and docs
    demo.py   the whole system on one machine

Quality commands read a release and a data folder and need no Redis; load commands start a service
and talk HTTP to it. Of our packages, `bench` imports only `models`. Every `--json` file holds
{"meta": {...}, "rows": [{"name": ...}]}.
"""
