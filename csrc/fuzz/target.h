// What the fuzz targets and the soak run on: one small database with a table of every kind.
#pragma once

#include <string>

#include "query.h"

inline constexpr const char* kTargetSchema =
    "CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT, c REAL);"
    "INSERT INTO t VALUES (1,'value 1',0.5),(2,'value 2',NULL),(3,'é',2.5),(4,NULL,1e300);"
    "CREATE TABLE u(a INTEGER, b TEXT COLLATE NOCASE);"
    "INSERT INTO u VALUES (1,'x'),(1,'X'),(3,'%a_'),(NULL,'{\"k\": 1}'),(9,x'00ff');"
    "CREATE INDEX u_b ON u(b); CREATE VIEW v AS SELECT a, b FROM t WHERE a > 1;"
    "CREATE VIRTUAL TABLE f USING fts5(body); INSERT INTO f VALUES ('hello value'),('x y');"
    "CREATE VIRTUAL TABLE box USING rtree(id, low, high); INSERT INTO box VALUES (1,0,1);";

// Few steps and little storage: a fuzzer learns nothing from a query that runs for long.
inline constexpr spft::Limits kTargetLimits{20000, 5.0, 2000, 1 << 20, 100000, 20000, 4 << 20};

// Writes the database to `path`; false when it cannot.
bool make_target(const std::string& path);

// Runs `sql` as gold and as candidate; false when the two differ, which nothing may cause but the
// clock.
bool run_twice(spft::Connection& connection, const std::string& sql);
