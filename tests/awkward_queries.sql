-- Awkward but ordinary SELECTs of SQLite, one a line: what templates must survive.
with big as (select name, people from city where people > 500) select name from big order by people
with big (n, p) as (select name, people from city) select n from big where p > 500
with a as (select city_id from city where country = 'Peru'), b as (select * from trip where city_id in (select city_id from a)) select count(*) from b
with a as materialized (select name from city) select * from a
with recursive n(i) as (select 1 union all select i + 1 from n where i < 5) select i from n
with recursive n(i) as (select 1 union all select i + 1 from n where i < 5) select name, i from city, n where city_id = i
with recursive chain(id, depth) as (select person_id, 0 from person where boss is null union all select p.person_id, chain.depth + 1 from person p join chain on p.boss = chain.id) select name, depth from chain join person on person.person_id = chain.id
with recursive chain as (select person_id, name, 0 as level from person where name = 'Ann' union all select p.person_id, p.name, level + 1 from person p join chain c on p.boss = c.person_id) select name from chain where level > 0
with t as (select person_id, sum(cost) as total from trip group by person_id) select p.name, t.total from t join person p using (person_id)
with x as (select 1 as a) select city.name from city, x where city.city_id = x.a
with m as (select max(people) as top from city) select name from city, m where people = m.top
select name from city where people = (with m as (select max(people) as top from city) select top from m)
select name, row_number() over (order by people desc) as r from city where people is not null
select name, rank() over (partition by country order by people desc) from city
select name, sum(nights) over (partition by person.person_id order by day rows between unbounded preceding and current row) from person join trip on person.person_id = trip.person_id
select day, avg(cost) over (order by day rows between 1 preceding and 1 following) from trip
select day, sum(nights) over (order by day range unbounded preceding) from trip
select day, lag(cost, 1, 0) over w, lead(cost) over w from trip window w as (order by day)
select name, first_value(name) over (partition by country order by people groups between unbounded preceding and unbounded following exclude no others) from city
select name, ntile(2) over (order by age, person_id) from person
select name, people, percent_rank() over (order by people), cume_dist() over (order by people) from city
select country, count(*) filter (where people > 500) over (partition by country) from city
select * from (select name, dense_rank() over (order by age) as d from person) where d <= 2
select name, nth_value(name, 2) over (order by people desc rows between unbounded preceding and unbounded following) from city
select name, case when people > 1000 then 'big' when people > 400 then 'middle' else 'small' end from city
select case country when 'Peru' then 'home' else 'abroad' end as place, count(*) from city group by place
select sum(case when nights > 2 then 1 else 0 end) from trip
select name from city order by case when country = 'Peru' then 0 else 1 end, name
select count(case when cost > 100 then 1 end) * 100.0 / count(*) from trip
select avg(n) from (select count(*) as n from trip group by person_id)
select d.name, d.n from (select p.name, count(*) as n from person p join trip t on p.person_id = t.person_id group by p.person_id) as d where d.n > 1
select t.name from (select * from city where country = 'Peru') t
select x.country, x.c from (select country, count(*) c from city group by country having count(*) > 1) x order by x.c
select a.name, b.n from city a left join (select city_id, count(*) n from trip group by city_id) b on a.city_id = b.city_id
select name, (select count(*) from trip where trip.person_id = person.person_id) from person
select name, (select max(day) from trip t where t.person_id = p.person_id) as last from person p order by last desc
select p.name from person p where age > (select avg(age) from person q where q.home = p.home or q.person_id != p.person_id)
select country from city c group by country having max(people) > (select avg(people) from city d where d.country != c.country)
select name from person where exists (select 1 from trip where trip.person_id = person.person_id)
select name from person p where not exists (select * from trip t where t.person_id = p.person_id)
select name from person p where not exists (select 1 from city c where c.country = 'Peru' and not exists (select 1 from trip t where t.person_id = p.person_id and t.city_id = c.city_id))
select exists (select 1 from trip where cost > 500)
select name from city where country in ('Peru', 'Italy', 'Chile')
select name from city where city_id in (1, 3, 5)
select name from city where country not in ('Peru')
select name from city where city_id in (select city_id from trip where nights > 2)
select name from city where (country, capital) in (select country, capital from city where people > 1000)
select name from city where city_id not in (select city_id from trip where city_id is not null)
select name from city where name in ()
select p.name, c.name from person p left join city c on p.home = c.city_id
select p.name, c.name from person p left outer join city c on p.home = c.city_id and c.people > 500
select p.name, c.name from city c right join person p on p.home = c.city_id
select p.name, c.name from person p full join city c on p.home = c.city_id
select p.name, c.name from person p full outer join city c on p.home = c.city_id where c.country is null
select count(*) from person cross join city
select person.name from person natural join trip
select name, points from person natural join score where year = 2023
select p.name from person p join trip using (person_id)
select name, day from person left join trip using (person_id)
select person_id, name from person join trip using (person_id) where nights > 2
select * from person join trip using (person_id)
select * from score natural join person
select p.name, t.day, c.name from person p join trip t using (person_id) join city c using (city_id)
select p.name from person p, trip t, city c where p.person_id = t.person_id and t.city_id = c.city_id and c.name = 'Lima'
select p.name, q.name from person p join person q on p.boss = q.person_id
select p.name, q.name from person p left join person q on p.boss = q.person_id where q.name is null
select p.name, q.name from person p join person q on p.age = q.age and p.person_id < q.person_id
select a.name from city a inner join city b on a.country = b.country and a.city_id <> b.city_id
select p.name from person p join (trip t join city c on t.city_id = c.city_id) on p.person_id = t.person_id where c.country = 'Peru'
select name from person union select name from city order by name limit 3
select name from person union all select name from city order by 1 desc
select city_id from city except select city_id from trip order by city_id limit 2 offset 1
select home from person intersect select city_id from trip
select name as n, 1 as k from person union all select name, 2 from city order by k, n
select name from person where age < 30 union select name from person where age > 50 union select name from city where people > 5000
select * from (select name from person union select name from city) limit 4
select count(*) from (select person_id from trip intersect select person_id from score)
select name from person union select surname from person where surname is not null order by length(name), name
select name from person union select name from city order by upper(name)
select count(distinct country) from city
select sum(distinct nights), avg(distinct nights), group_concat(distinct country) from trip, city
select count(*) filter (where nights > 2), count(*) from trip
select country, count(*) filter (where capital) from city group by country
select group_concat(name, '; ') from person
select group_concat(name, '; ' order by name desc) from person
select total(cost), min(cost), max(cost) from trip
select max(age, 30), min(age, 30) from person
select substr(day, 1, 4) as y, count(*) from trip group by y
select strftime('%Y', day), count(*) from trip group by strftime('%Y', day)
select strftime('%Y-%m', day) as month, sum(cost) from trip group by 1 order by 2 desc
select country, count(*) from city group by 1 having count(*) > 1
select country, count(*) as n from city group by country order by n desc, country
select nights % 2, count(*) from trip group by nights % 2
select length(name), count(*) from city group by length(name) having count(*) >= 2
select name from person where name = 'ANN' collate nocase
select name from person order by name collate nocase
select distinct name collate nocase from person
select cast(cost as integer) from trip where cast(strftime('%Y', day) as integer) = 2024
select cast(sum(nights) as real) / count(*) from trip
select name || ' ' || surname from person where surname is not null
select name || ' (' || country || ')' as label from city where country is not null order by label
select name from person where name || surname like '%nL%'
select date(day, '+1 day') from trip
select julianday('2024-01-01') - julianday(day) from trip
select name from city where date(founded) < date('1500-01-01')
select strftime('%m', day) from trip where day between '2023-02-01' and '2023-02-28'
select datetime(day, 'start of month') from trip where date(day) = '2024-03-15'
select iif(nights > 3, 'long', 'short') from trip
select coalesce(surname, 'none') from person
select nullif(note, '') from trip
select ifnull(country, '?') from city
select coalesce(max(cost), 0) from trip where nights > 100
values (1, 'a'), (2, 'b')
select * from (values (1, 'a'), (2, 'b'))
select name from city where city_id in (values (1), (3))
select name from city order by name limit 2 offset 1
select name from city order by name limit 1, 2
select name from city order by city_id limit -1 offset 3
select name from city order by people desc nulls last limit 3
select name from city order by people asc nulls first, name
select name from city where (country, people) = ('Peru', 428)
select name from city where (people, name) > (500, 'M')
select name from city where name glob 'L*'
select name from city where name not glob '*o'
select name from city where name regexp '^L'
select name from city where country is 'Peru'
select name from city where country is not 'Peru'
select name from city where country is null
select name from city where country is not null and people notnull
select name from city where people isnull
select a.name from person a, person b where a.boss is b.boss and a.person_id <> b.person_id
select name from city where country is not distinct from 'Peru'
select name from city where people between 100 + 300 and 2 * 1000
select name from city where people between (select min(people) from city) and (select avg(people) from city)
select name from city where people not between 100 and 1000
select name from person where age between 30 and 45 and height between 1.6 and 1.75
select json_extract(tags, '$[0]') from person where json_valid(tags)
select tags ->> '$[0]' from person where tags is not null
select tags -> 0 from person where tags is not null
select name, value from person, json_each(person.tags) where tags is not null
select count(*) from person, json_each(tags) j where j.value = 'a'
select json_group_array(name) from city
select json_object('n', name, 'p', people) from city
select json_array_length(tags) from person where tags like '[%'
select name from person where name like 'A%'
select name from person where name not like '%n'
select note from trip where note like '50\%%' escape '\'
select note from trip where note like '%a\_b%' escape '\'
select name from person where lower(name) = 'ann'
select upper(substr(name, 1, 1)) || lower(substr(name, 2)) from person
select round(avg(cost), 2) from trip
select round(cost * 1.2, 1), cost + nights, -nights, +nights from trip
select cost / nights as rate from trip where cost / nights > 100 order by rate
select nights * 2 + 1 from trip where (nights + 1) * 2 > 6
select nights << 1, nights & 1, nights | 8, ~nights from trip
select name from person where age > 30 and (home = 1 or home = 2) or not age < 50
select name from person where not (age > 30 and age < 50)
select name from person where age <> 33
select name from person where age != 33 and age == 41
select name from person where -age < -40
select "item no", "group", "select" from "order item" where "group" = 'food'
select [item no] from [order item] where [select] > 1
select `group`, sum(price * "select") as total from `order item` group by `group` order by total desc
select o."group", count(*) from "order item" o join trip t on o."trip id" = t.trip_id group by o."group"
select "name" from "city" where "country" = "Peru"
select name from rich where people > 1000
select rich.name, trip.day from rich join city on rich.name = city.name join trip on trip.city_id = city.city_id
select city.* from city join trip on city.city_id = trip.city_id where nights = 7
select t.*, p.name from trip t join person p on t.person_id = p.person_id
select count(*), t.* from trip t group by t.person_id having t.trip_id = min(t.trip_id)
select rowid, name from city where rowid > 3
select oid from person
select _rowid_, * from trip where _rowid_ = 2
select max(rowid) from trip
select distinct country, capital from city
select distinct p.surname from person as p where p.surname is not null order by p.surname desc
select all country from city
select count(*) as "number of cities" from city
select name as 'the name' from city
select name n from city c where c.n is null or n = 'Lima'
select name as label from city where label = 'Lima'
select sum(cost) as s from trip group by person_id having s > 200
select age + 1 as next from person order by next
select name from main.city
select main.city.name from main.city
select count(*) from trip where day = (select max(day) from trip)
select name from person where person_id = (select person_id from trip order by cost desc limit 1)
select name from city where people > all_people.avg_people
select name from (select name, people from city) join (select avg(people) as a from city) on people > a
select a.n from (select name as n, age as g from person) a join (select avg(age) as g from person) b on a.g > b.g
select person_id, year, points from score where points = (select max(points) from score s where s.year = score.year)
select year, max(points), person_id from score group by year
select name from person where person_id in (select person_id from score where year = 2022) and person_id in (select person_id from score where year = 2023)
select name from person where (select count(*) from trip where trip.person_id = person.person_id) >= 2
select p.name, count(t.trip_id) from person p left join trip t on p.person_id = t.person_id group by p.person_id order by count(t.trip_id) desc, p.name
select c.country, sum(t.cost) from city c join trip t on c.city_id = t.city_id where t.day >= '2023-01-01' and t.day < '2024-01-01' group by c.country having sum(t.cost) > 100
select c.name from city c join trip t on t.city_id = c.city_id join person p on p.person_id = t.person_id and p.home = c.city_id
select abs(people - 1000) from city order by abs(people - 1000) limit 2
select name from city where capital
select name from city where not capital
select name from city where capital = true
select name from city where people > 1e3
select name from city where people > 1_000
select name from city where people > 0x10
select x'41' || name from city limit 1
select typeof(people), count(*) from city group by 1
select printf('%d-%s', city_id, name) from city
select format('%s', name) from city where instr(name, 'i') > 0
select replace(name, 'i', 'y'), trim(name), ltrim(name, 'L'), char(65), hex(name), quote(name) from city
select unicode(name), substr(name, -2), substring(name, 1, 2) from city
select 1 from city
select 'x', null, 3.50, -1 from city where city_id = 1
select name from city where 'Peru' = country and 500 > people
select name from city where true
select name from city where 1 = 1 and people > 100 or 0
select name from city where people > (500)
select ((name)) from ((city))
select name from city where country like 'P' || '%'
select name /* comment */ from city -- trailing
select name from city;
select day from trip where time(day) = '00:00:00'
select current_date > day from trip
select likely(name = 'Lima') from city
select name from city indexed by nowhere
select name from city not indexed where people > 500
select name from city tablesample (10)
select t1.name from city t1 where t1.people > (select avg(t2.people) from city t2 where t2.country = t1.country and exists (select 1 from trip t3 where t3.city_id = t1.city_id))
select name from city where city_id in (select city_id from trip where person_id in (select person_id from person where age > (select avg(age) from person)))
select (select name from city where city_id = home) as place, count(*) from person group by place
select min(name), max(name) from person group by surname is null
select count(*) from trip group by person_id, city_id having count(*) > 0 and sum(nights) > 2 order by count(*), sum(nights)
select person_id from trip group by person_id order by sum(cost) desc limit 1
select name from person order by age desc, name limit 3
select 5 > 3, 5 <> 3, 'a' < 'b' from city limit 1
select name from city where country in (select country from city group by country having count(*) > 1) order by name
select a.country from city a union select b.country from city b where b.country is not null
with w as (select name, country, row_number() over (partition by country order by people desc) as k from city) select name from w where k = 1 and country is not null
select avg(age) from (select age from person order by age limit 2 - (select count(*) from person) % 2 offset (select (count(*) - 1) / 2 from person))
select name from city where people = (select people from city where name = 'Lima') or people = (select people from city where name = 'Oslo')
