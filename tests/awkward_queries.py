"""A schema, and the queries of `awkward_queries.sql` on it."""

from pathlib import Path

SCHEMA = """
create table city (city_id integer primary key, name text not null, country text, people int,
  founded date, area real, capital bool default 0);
create table person (person_id integer primary key, name text, surname text, age int,
  home int references city, boss int references person, tags text, height real);
create table trip (trip_id integer primary key, person_id int references person,
  city_id int references city, day date, nights int, cost real, note text);
create table "order item" ("item no" integer primary key, "trip id" int references trip (trip_id),
  "group" text, "select" int, price real);
create table score (person_id int references person, year int, points int,
  primary key (person_id, year)) without rowid;
create view rich as select name, people from city where people > 500;
insert into city values (1, 'Lima', 'Peru', 9752, '1535-01-18', 2672.3, 1),
  (2, 'Cusco', 'Peru', 428, '1100-01-01', 385.1, 0), (3, 'Quito', 'Ecuador', 1763,
  '1534-12-06', 372.4, 1), (4, 'L''Aquila', 'Italy', 70, '1254-05-13', 473.9, 0),
  (5, 'Oslo', 'Norway', 709, '1040-06-01', 454.0, 1), (6, 'Nowhere', null, null, null, null, 0);
insert into person values
  (1, 'Ann', 'Lee', 41, 1, null, '["a","b"]', 1.7), (2, 'Bob', 'Ode', 33, 2, 1, '["b"]', 1.8),
  (3, 'Cid', 'Lee', 29, 3, 1, '[]', 1.65), (4, 'Dan', null, 58, 4, 2, null, 1.9),
  (5, 'Eve', 'Ray', 33, 5, 2, '["c","a"]', null), (6, 'ann', 'Poe', 19, null, 3, '{"k":1}', 1.6);
insert into trip values
  (1, 1, 2, '2023-01-05', 3, 120.5, 'good'), (2, 1, 3, '2023-02-10', 1, 80.0, null),
  (3, 2, 1, '2023-02-11', 7, 700.0, '50% off'), (4, 3, 5, '2024-03-01', 2, 260.25, 'a_b'),
  (5, 4, 1, '2024-03-15', 5, 410.0, 'good'), (6, 5, 4, '2024-07-30', 4, 333.3, ''),
  (7, 2, 3, '2024-08-01', 2, 90.0, 'bad');
insert into "order item" values (1, 1, 'food', 2, 9.5), (2, 1, 'taxi', 1, 20), (3, 3, 'food', 4, 7),
  (4, 5, 'hotel', 1, 199.0), (5, 6, 'food', 3, 8.25), (6, 7, 'taxi', 2, 15);
insert into score values (1, 2022, 10), (1, 2023, 14), (2, 2022, 7), (3, 2023, 21), (4, 2023, 7);
"""


def queries() -> list[str]:
    """One query a line."""
    text = Path(__file__).with_suffix(".sql").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if not line.startswith("--")]
