"""The part of the grammar that is about data: a database of any schema, weather, documents; see `grammar_mrkl`."""

TABLES = """
HOWMANY = how many|what number of|how many of|how many of all
INP = in|of|at|for|by|within|with|on|carried by|flown by|driven by|handled by|served by|run by|managed by|collected by|picked by|led by|taught by|treated by|done by|performed by|brought in by|taken by|owned by|belonging in|aboard|under|across|among|inside|belonging to|assigned to|based in|located in|working in|working for|living in|employed in|employed by|made by|placed by|held by|taken out by|named|called|working at|written by|stationed in|residing in|who are in|that are in|held in|taking place in|that take place in|given in|offered in|kept in
NOTIN = not in|anywhere but|anywhere but in|anywhere except|anywhere except in|anywhere other than|outside|outside of|except|except in|except for|except those in|excluding|other than|without|apart from|not from|not by|not of|not working in|not living in|but not in|not counting|ignoring|leaving out
BE = is|are|was|were|be|been|have been|has been|being
WORK = work|works|worked|are employed|are working|were employed|have jobs
LIVE = live|lives|lived|reside|resides|are living|is living
LINK = work|works|worked|belong|belongs|come|comes|came|sit|sits|stay|fall|are located|is located|are based|is based|are employed|is employed|are assigned|is assigned|are working|are found|is found|are listed|are currently
LINKB = work|live|belong|come|sit|stay|reside|fall|be|have
DONOT = do not|does not|did not|are not|is not
HAVE = have|has|had|with|having|contain|contains
MADE = make|place|order|submit|have|buy|purchase|borrow|take out|take|receive|send|create|give|put in
THERE = |are there|were there|exist
OURS = did we have|were made|do we have|are in database|are there in total|are there in all|are listed|are on record|do i have|does company have|are registered|are recorded|are there altogether|have we got|are in table|does database have|are in system
MOST = most|most money|highest salary|best
LEAST = least|lowest|worst|least money
AVG = average|mean|avg
SUM = total|sum of|combined|overall|total of|sum of all|total of all|aggregate|summed|sum total of
MAX = highest|maximum|max|largest|greatest|biggest|top
MIN = lowest|minimum|min|smallest|least
WITHMOST = with|has|have|had|having|that has|who has|which has
PER = per|by|for each|in each|for every|of each|in every|grouped by|across each|each
UNITS = units|pieces|items|copies

Rows <- Table : rows
Rows <- People : people
Count <- {HOWMANY} People {WORK} InVals : count(rows($0), $1)
Rows <- (all|every|each|any|all of|our|my|these|those|their) Rows
Rows <- (everyone|everybody|all people) : everyone
Rows <- Vals Rows : valued_rows
Rows <- (a|an|one) Rows !
Rows <- Value : role_rows !
Rows <- Rows Post : restrict
Rows <- Rows Post and Post : restrict
Vals <- Value : value
InVals <- {INP} Vals
InVals <- from Vals : sided from
InVals <- to Vals : sided to
Vals <- Vals (or|and|,|or in|and in|, or|, and|or from|and from) Value : either($0, value($1))
Vals <- either Value or Value : either(value($0), value($1))
Vals <- Value Col : of_column
Vals <- Col Value : of_column/10
Post <- InVals
Post <- [(,|but)] {NOTIN} Vals : negated
Post <- (neither in|in neither|not in|neither) Value (nor|or|nor in|or in) Value : both(negated(value($0)), negated(value($1)))
Post <- (that|who|which) VP
Post <- Earn NumB : measured
Post <- (named|called|with name|with first name|with last name|whose name is|whose first name is|whose last name is) Name : named
Post <- Dated Days : dated
Post <- not Dated Days : negated(dated($0, $1))
Post <- (with|having|that have|who have) NumB Col : measured/10
Post <- (with|having|at) [a|an] Col [of|that is] NumB : measured
Post <- whose Col (is|are|was) NumB : measured
Post <- State : zero >
Post <- Acts Post : act
Post <- whose Col (is|are|was) Vals : whose_value
Post <- whose Col (is|are|was) not Vals : negated(whose_value($0, $1))
Post <- (in|during|of|for|throughout) Days0 : any_date
Post <- Days : any_date
Post <- [that are|who are] More than Number [Col] : compared >
Post <- [that are|who are] Less than Number [Col] : compared <
Post <- (with|that have|having) no Col : zero =
VP <- {BE} Vals
VP <- {BE} Post
VP <- ({BE} not|{LINK} {NOTIN}) Vals : negated
VP <- {BE} not [employed|located|based|working|living] InVals : negated
VP <- {LINK} InVals
VP <- ({LINK}|{LIVE}) (in neither|neither in) Value (nor|nor in) Value : both(negated(value($0)), negated(value($1)))
VP <- {LIVE} InVals : lives
VP <- {LIVE} {NOTIN} Vals : negated(lives($0))
VP <- {DONOT} (live|reside) InVals : negated(lives($0))
VP <- {DONOT} (work|belong|come|sit|stay) InVals : negated
VP <- Earn NumB : measured
VP <- Earn NumB (a|an|per|each) (Unit|CalUnit) : measured_per
VP <- Earn More than Amount : compared($1, $2, $0, >)
VP <- Earn Less than Amount : compared($1, $2, $0, <)
VP <- {DONOT} Earn NumB : negated(measured($0, $1))
VP <- {HAVE} NumB Col : measured/10
VP <- {HAVE} NumB (in|of) Col : measured/10
VP <- {HAVE} [a|an] Col [of|that is] NumB : measured
VP <- {DONOT} have NumB Col : negated(measured($1, $0))
VP <- ({HAVE} no|{DONOT} have any|{BE} out of) Col : zero =
VP <- {BE} State : zero >
VP <- {BE} not State : zero =
VP <- {BE} State by NumB : measured
VP <- Has Vals : whose_value
VP <- {DONOT} Has Vals : negated(whose_value($0, $1))
VP <- [have|has|had|{BE}] Acts Post : act
VP <- [have|has|had] Acts [a|an|one|any] Vals [Post] : act
VP <- [have|has|had] Acts [a|an|any] Table [Post] : act_noun
NEVER = never|have never|has never|had never|have not|has not|had not|do not|does not|did not|are not|is not
VP <- {NEVER} Acts [a|an|any] Table [Post] : act_noun never
VP <- {NEVER} Acts ([a|an|any] Vals|[Post]|anything) : act never
VP <- [{BE}] Dated Days : dated
VP <- ({BE} not|{DONOT}) Dated Days : negated(dated($0, $1))
VP <- (have|has) Dated Days : dated
VP <- {BE} More than Amount [Col] : compared >
VP <- {BE} Less than Amount [Col] : compared <
VP <- VP (and|but) VP : both
VP <- VP Post : both
NumB <- (more than|over|above|greater than|higher than|exceeding|in excess of|larger than|bigger than|upwards of) Amount : than >
NumB <- (less than|under|below|fewer than|lower than|smaller than) Amount : than <
NumB <- (at least|no less than|not less than|minimum of|a minimum of|no fewer than|not fewer than|not under|not below) Amount : than >=
NumB <- (at most|no more than|not more than|up to|maximum of|a maximum of|not over|not above|not exceeding) Amount : than <=
NumB <- Amount (or more|or higher|or above|or over|and more|and above|and up|or greater|upwards) : than >=
NumB <- Amount (or less|or fewer|or below|or under|or lower|and below|and less) : than <=
NumB <- Amount : than =
NumB <- between Amount and Amount : range_bound
NumB <- from Amount to Amount : range_bound
NumB <- NumB (and|but) NumB : bounds
NumB <- (more than|above|over|higher than) average [Col|Col Post] : than_average >
NumB <- (less than|below|under|lower than) average [Col|Col Post] : than_average <
Amount <- Number
Amount <- Qty
Days <- [on] DateX : on_day on
Days <- (before|prior to|earlier than) DateX : on_day before
Days <- (after|later than) DateX : on_day after
Days <- (from|since|on or after|starting|starting from|from and including|not before|no earlier than) DateX : on_day from
Days <- (on or before|by|until|till|up to|no later than|not after|up to and including) DateX : on_day to
Days <- (in|during|within|over|throughout) Period : on_period on
Days <- NearPeriod : on_period on
Days <- on Period : on_period on !
Days0 <- Period : on_period on
Days <- (before|prior to|earlier than) Period : on_period before
Days <- (after|later than) Period : on_period after
Days <- (from|since|starting in|in or after|not before|as of) Period : on_period from
Days <- (by|until|up to|in or before|up to end of|no later than) Period : on_period to
Days <- Range : on_period on
Days <- (before|earlier than) Value : after_row <
Days <- (after|later than) Value : after_row >

Count <- {HOWMANY} Rows {THERE} : count_all
Count <- {HOWMANY} Rows {OURS} : count
Count <- {HOWMANY} Rows VP : count
Count <- {NOTIN} Vals [,] {HOWMANY} Rows ({THERE}|{OURS}) : count($1, negated($0))
Count <- {HOWMANY} Rows (are there|were there|do we have|exist|are there in total|did we have|happened|occurred|took place) Post : count
Count <- {HOWMANY} Rows (date from|fall in|are from|fell in) Period : count($0, any_date(on_period($1, on)))
Count <- (in|during) Period [,] {HOWMANY} Rows (were there|happened|are there|occurred|took place) : count($1, any_date(on_period($0, on)))
Count <- how often (does|do|did) Value (show up|appear|occur|come up|feature) in Rows : count($1, value($0))
Count <- {HOWMANY} Rows (belong|belongs) to Vals : count
Count <- {HOWMANY} Rows (fall under|count as|are under name|are in name of|come under|are marked) Vals : count
Count <- count [of] Rows : count
Count <- {HOWMANY} Rows (did|do|does|has|have) Vals Acts [Post] : count_acts
Agg <- ({HOWMANY}|how much) Col (did|do|does|has|have) (Vals|we|they) Acts [in total|altogether|in all|Post] : sum_acts
Agg <- ({HOWMANY}|how much) Col (were|was|have been|has been) Acts [in total|altogether|in all|Post|Post Post] : sum_acts
Agg <- [total] Col Acts (Post|Post Post) : sum_acts
Agg <- Superlative Col [Post|Post Post] : superlative
Agg <- Superlative Col (of|for|among|across) [all] Rows : superlative
Agg <- Extreme Rows in Col : rows_extreme/102
Agg <- {AVG} [number of] Col (per|for each|for a|of a|of each) Rows : aggregate avg
Agg <- (how much|what) do Value and Value Earn (together|combined|in total|altogether|between them) : op(as_number(cell($2, $0)), as_number(cell($2, $1)), +)
Agg <- [total] (payroll|wage bill|salary bill|pay bill) [Post] : payroll
Agg <- (combined|total) Col of Value and Value : op(as_number(cell($0, $1)), as_number(cell($0, $2)), +)
Agg <- Col of Value ({PLUS}|and) (that|those) of Value : op(as_number(cell($0, $1)), as_number(cell($0, $2)), +)
Top <- (what|which) (percent|percentage) of Rows VP : share_rows
Top <- (what|which) (share|proportion|fraction) of Rows VP [,] (in percent|as a percentage|in percentage) : share_rows
Top <- percentage of Rows (that|who|which) VP : share_rows
Top <- (which|what) is most common Col : most_common max
Top <- (which|what) Col is (most common|most frequent) : most_common max
Top <- (which|what) is least common Col : most_common min
Count <- (number|total number|count) of Rows (combined|together|taken together|in total) : count
Count <- {HOWMANY} Rows (work|live) InVals (together|combined|in total) : count
Count <- {HOWMANY} Rows (do|does) Vals (have) (together|combined) : count
Count <- {HOWMANY} Rows has Vals (got|made|placed) : count !
Count <- {HOWMANY} Rows are there for Vals : count !
Count <- (how large|how big) is Value Col : headcount(of_column($0, $1))
Count <- {HOWMANY} Rows did Vals {MADE} : count
Count <- {HOWMANY} Rows did Vals {MADE} Days : count($0, $1, any_date($2))
Count <- {HOWMANY} Rows (has|have) Vals (made|placed|ordered|had|bought|borrowed|taken out) : count
Count <- {HOWMANY} Rows (were|was|have been) (made|placed|ordered|bought|borrowed|taken out|submitted) by Vals : count
Count <- {HOWMANY} Rows (were|was|have been) (made|placed|ordered|bought|borrowed|taken out|submitted) by Vals Days : count($0, $1, any_date($2))
Count <- {HOWMANY} Rows (does|do) Vals (have|employ) : count
Count <- {HOWMANY} Rows did not come from Vals : count($0, negated($1))
Count <- {HOWMANY} (different|distinct|unique|separate) Col {OURS} : count_distinct
Count <- {HOWMANY} (different|distinct|unique|separate) Col {THERE} : count_values
Count <- {HOWMANY} Col {THERE} : count_values !
Count <- {HOWMANY} Col {OURS} : count_distinct !
Count <- {HOWMANY} [different|distinct] Table Col (are there|are there in all|do we have|exist|do you have) : count_distinct_of !
Count <- {HOWMANY} [different|distinct|unique] Col (do|does) Rows {LINKB} [in|from|to] : count_distinct
Count <- {HOWMANY} [different|distinct|unique] Col (are|were) Rows (in|from|based in|located in|working in|spread over) : count_distinct
Count <- (number of|count of) (different|distinct|unique) Col : count_distinct
Count <- {HOWMANY} (different|distinct|unique) Col [have|has] Acts [something|anything] : count_distinct_act
Count <- {HOWMANY} (different|distinct|unique) Table (were|have been|are|was) Dated [Days] : count_linked
Count <- {HOWMANY} [different|distinct] Col [have|has] Dated [a|an] Vals : count_dated
Count <- {HOWMANY} [different|distinct] Col Vals (something|anything|an order|a product) : count_distinct
Count <- (number|total number|count|total count|amount) of Rows : count
Number2 <- (number|total number|count) of Rows (that|who|which) VP : count
Count <- Number2
Count <- [combined|total] headcount (of|in|for) Vals2 : headcount
Count <- [combined|total] (number of people|number of staff|staff size) in Vals2 : headcount
Vals2 <- Vals
Count <- [combined|total] headcount (of|in|for) Value2 and Value2 : headcount
Count <- combined [number|total] [of] (headcounts) of Value2 and Value2 : headcount
Value2 <- Value : value
Count <- {HOWMANY} [{UNITS} of] Value (are|is|do we have|are there|are left|remain|do we still have|are still) [there|available|left|currently|still] in Col : as_number(cell($1, $0))
Count <- {HOWMANY} [{UNITS} of] Value (have we got in) Col : as_number(cell($1, $0))
Count <- how much Col of Value (is there|do we have|is left) : as_number(cell($0, $1))
Count <- {HOWMANY} Vals (were|have been|was|got) (ordered|sold|bought|purchased) [in total|altogether|overall|in all] : sum_quantity
Count <- {HOWMANY} Rows (came in|came|arrived|happened|took place|occurred|were there) Days : count($0, any_date($1))
Top <- how many Dur after Value (was|did) Value Dated : between($0, as_date(cell($3, $1)), as_date(cell($3, $2)))
Top <- [on] (what day of week|which day of week|what weekday|which weekday) (was|did) Value Dated [on] : weekday_of(as_date(cell($1, $0)))
Top <- how many Money (does|do|would|will|did) [a|an|one] Value Earn : in_unit(cell($2, $1), $0)
Count <- (what|which) (quantity|amount) of Value (is|are|do we have) [left|available|there|currently] in Col : as_number(cell($1, $0))
Count <- [current] Col (level|count|quantity|on hand) (for|of) Value : as_number(cell($0, $1))
Count <- {HOWMANY} [{UNITS} of] Value (are left|are available|do we still have|are there left|do we have left|remain) : cell_about stock
Count <- (what|which) (quantity|amount|number) of Vals (has been|have been|was|were) (ordered|sold|bought|purchased) [in total|altogether|overall|in all] : sum_quantity
Count <- total (units|number|quantity) of Vals [units] (sold|ordered|bought) : sum_quantity
Count <- {HOWMANY} {UNITS} of Vals (were|have been|was|got) (ordered|sold|bought|purchased) [in total|altogether|overall|in all|Days] : sum_quantity
Count <- {HOWMANY} {UNITS} (did|has|have) Vals (order|ordered|buy|bought) [in total|altogether|overall|in all] : sum_quantity
Count <- {HOWMANY} {UNITS} of Vals did (we|customers|people|they) (order|sell|buy) [in total] : sum_quantity
Count <- [total] (quantity|number of units|amount) (ordered|sold) (of|for) Vals : sum_quantity
Count <- [total] (number of units|quantity|units) of Vals (ordered|sold) : sum_quantity
Atom <- (number|amount) of Dur (between|from|separating) DateX (and|to|until|through) DateX : between
Atom <- Dur (between|from) DateX (and|to|until|through) DateX : between !
Atom <- (number|amount) of Dur in Period : between_period
Atom <- (number|amount) of Dur (left|remaining) in Period : left_in
Atom <- (number|amount) of Dur (until|till) DateX : until
Atom <- (number|amount) of Dur since DateX : since
Dating <- Col
Top <- how many Dur (are|are there|lie|passed|were there|were) between Dating of Value and [that of] Value : dates_apart
Top <- how many Dur (are|are there|lie|passed|were there|were) between Value 's and Value 's Dating : dates_apart/0312
Atom <- Count : as_number
Neg <- half Count : op(#1/2, as_number($0), *)
Neg <- half [of] Cell : op(#1/2, as_number($0), *)
Top <- Count : as_number
Top <- {HOWMANY} Rows VP and how many [{INP}|from|to] Vals : two_counts

Mean <- {AVG} : word avg
Sums <- {SUM} : word sum
Extreme <- {MAX} : word max
Extreme <- {MIN} : word min
Superlative <- Best : superlative_of max
Superlative <- Worst : superlative_of min
Fold <- Mean
Fold <- Sums
Fold <- Extreme
Agg <- Fold Col [Post] : aggregate($1, $2, $0)
Agg <- Fold Col Post Post : aggregate($1, $2, $3, $0)
Agg <- Fold Table Col [Post] : aggregate($2, rows($1), $3, $0)
Agg <- Sums (of|all) Col : aggregate/10
Agg <- Col of Rows (in total|altogether|together|combined) : aggregate sum
Agg <- Extreme number of Col (in|of|for|per) [a|any|one] Rows : aggregate($1, $2, $0)
Agg <- ({HOWMANY} Unit|how long) do Rows Earn (together|in total|altogether|combined) : sum_in
Agg <- Fold Col (of|for|among|across|paid to|earned by) [a|an|all|any] Rows : aggregate($1, $2, $0)
Agg <- among Rows [,] (what is|what was) Fold Col : aggregate($2, $0, $1)
Agg <- Extreme Col (anyone|anybody|someone|a person|people) Post (gets|get|has|earns|receives|makes|draws) : aggregate($1, $2, $0)
Agg <- (how much|what) (does|do|did) (someone|anyone|a person|people|everyone|somebody|staff|those) Post Earn on average : aggregate/10 avg
Agg <- on average [,] (what|how much) Col do Rows (get|earn|have|make|receive) : aggregate avg
Agg <- on average [,] (what|how much) do Rows Earn : aggregate/10 avg
RAISE = raise|rise|pay raise|pay rise|increase|salary increase|raise in pay
GIVEN = gets|got|receives|received|is given|was given|were given|had
Top <- if Value {GIVEN} [a|an] Pct {RAISE} [,|.] (what|how much|how high) (will|would|is) [his|her|their|its] [new] Col [be] : pct_change(as_number(cell($2, $0)), $1, +)
Top <- if Value {GIVEN} [a|an] Pct {RAISE} [,|.] (how much|what) (will|would) (he|she|they) Earn : pct_change(as_number(cell($2, $0)), $1, +)
Top <- if Value {GIVEN} [a|an] Pct {RAISE} [,|.] (how much|what) (will|would) (he|she|they) Earn (per|an|a|each) Unit : pct_change(as_number(cell_per($0, $2, $3)), $1, +)
Top <- (how much|what) (will|would) Value Earn (after|with) [a|an] Pct {RAISE} : pct_change(as_number(cell($1, $0)), $2, +)
Agg <- how much does Superlative Rows Earn : superlative/021
Agg <- (what|how much) does a (typical|average) Rows Earn : aggregate/10 avg
Agg <- {AVG} number of Col [(of|for|in|across|among) [a|all] Rows] : aggregate avg
Agg <- total number of Col : aggregate sum
Agg <- Ordinal (highest|largest|greatest|biggest) Col [Post] : nth_highest max
Agg <- Ordinal (lowest|smallest) Col [Post] : nth_highest min
Agg <- how much (does|do) {AVG} Rows Earn : aggregate/10 avg
Agg <- (what|how much) (do|does) Rows Earn on average : aggregate/10 avg
Agg <- (how much|what) does an {AVG} Rows Earn : aggregate/10 avg
Agg <- [total] (revenue|sales|turnover|income) (from|of|for|by|with) Vals : revenue
Agg <- [total] (revenue|sales|turnover|income) (in cents (from|of|for|by|with) Vals|(from|of|for|by|with) Vals in cents) : revenue cents
Agg <- [total] value of [all|our] stock : stock_value
Agg <- [total] value of [all|our] stock in cents : stock_value cents
Agg <- [total] value of [all|our] stock of Value : stock_value
Agg <- [total] value of [all|our] Value in stock : stock_value
Agg <- [total] Col of all Rows : aggregate_all sum
Agg <- difference between {MAX} and {MIN} Col [Post] : spread
Atom <- Agg : as_number
DateX <- Agg : as_date
Top <- Agg : as_answer
DateX <- when (was|were) Late Rows Dated : aggregate($2, $1, $0)
Top <- when (was|were) Late Rows Dated : as_answer(aggregate($2, $1, $0))

Cell <- Col of [one|a|an|each] Value : cell
Cell <- Col of [one|a|an] Table Value : cell_in_table
Cell <- Col of [one|a|an] Value Table : cell_in_table/021
Cell <- Value 's Col : cell/10
Cell <- Value Col : cell/10 !
Cell <- Col (for|in|at) Value : cell
Cell <- (what|which) Col (does|do|did|is|was|has|are|were) Value [{LINKB}] [in|at|from|for|to|on|of|under|part of|employed in|assigned to|located in|based in|working in|hired for|written in] : cell
Cell <- (in|at|from|for|to) (what|which) Col (does|do|did|is|was) Value [{LINKB}|employed|located|based|working|living] : cell
Cell <- Value (works|lives|is) (in|at) (what|which) Col : cell/10
Cell <- (how much|what) (is|was) Value Earn : cell/10
Cell <- (how much|how much is|how much are) [a|an|one] Value [if i pay] : cell_about price
Cell <- how much [do we charge|do you charge|do they charge|would we charge] for [a|an|one] Value : cell_about price
Cell <- how (expensive|dear|costly) is [a|an|one] Value : cell_about price
Cell <- (how much|what) (would|will|does|do|did) [a|an|one] Value Earn [me|us] : cell/10
Cell <- how much money (does|did) Value Earn : cell/10
Top <- (how much|what) (does|do|did) Value Earn in Unit : in_unit(cell($1, $0), $2)
Agg <- (how much|what) (did|do|does) Rows Earn (in total|altogether|in all|together) : aggregate($1, $0, sum)
Agg <- (how much|what) (do|does|would|will|did) Number Value Earn [me|us|in total|altogether|together] : op(number($0), as_number(cell($2, $1)), *)
Cell <- (what|which) Col (does|do) Value (get|earn|receive|make|draw) : cell
Cell <- how (big|large|high) is Col of Value : cell
Cell <- how How (is|was|are) [a|an|one] Value : cell
Cell <- (how much|what) (does|do|did) Value Earn (per|an|a|each) Unit : cell_per
Top <- (how much|what) (does|do|did|would|will) Value Earn (for|in) Qty : earned_for
Top <- how old (is|are) Value [now|today] : between(year, as_date(cell_about($0, birth)), near(0))
Top <- how many Dur (has|have) Value (worked here|been with us|been here|worked for us|been employed|been employed here) : between($0, as_date(cell_about($1, hired)), near(0))
Top <- how long (has|have) Value (worked here|been with us|been here|worked for us|been employed) [,] in Dur : between($1, as_date(cell_about($0, hired)), near(0))
Cell <- (to|in|at) (which|what) Col does Value belong : cell
Cell <- Value (is|works|belongs) (in|to|at) (which|what) Col : cell/10
Cell <- where (does|is) Value [work|live|based] [,] (which|what) Col : cell/10
Cell <- since when has Value (worked|been) (here|with us|employed) : cell_about hired
Cell <- when did Value (begin|start) (working|work) [here|with us] : cell_about hired
Cell <- (on what|on which) (day|date) did Value (start|join|begin) [working] [here] : cell_about hired
Cell <- date on which Value Dated : cell/10
Cell <- how many Col (does|do|did|has) Value (have|contain|has|had) : cell
Cell <- how many Col (are|is) [there] (in|of) Value : cell
Cell <- how many Col (is|are|was|measures) Value [in size] : cell
Cell <- who Made Value : maker
Cell <- when (was|did|is|were) Value Dated : cell/10
Top <- how many Dur ago (was|did|is|were) Value Dated : since($0, as_date(cell($2, $1)))
Cell <- (on what|on which|what) (date|day) (was|did) Value Dated : cell/10
Cell <- (what|which) year (was|did) Value Dated : as_number(cell($1, $0))
Cell <- where does Value (live|work|come from|reside|sit) : cell_about place
Cell <- where is Value (based|from|located|living|working) : cell_about place
Cell <- [date|day|day that|date that|date when|day when|date on which|day on which] Value (was|is|got) Dated : cell/10
Cell <- [date|day] Value Dated : cell/10
Cell <- (Dated|Col) date of Value : cell !
Cell <- Col of Unknown : missing
Cell <- Unknown 's Col : missing/10
Cell <- (how much|what) does Unknown Earn : missing/10
Cell <- when (was|did) Unknown Dated : missing/10
Cell <- (what|which) Col (does|is) Unknown [{LINKB}] [in|at|from] : missing
Atom <- Cell : as_number
DateX <- Cell : as_date
Top <- Cell : as_answer

Peak <- (highest|most|largest|greatest|biggest|maximum|longest|best|top) : word max
Peak <- (lowest|least|fewest|smallest|minimum|shortest|worst) : word min
Much <- {MOST} : word max
Much <- {LEAST} : word min
Late <- (most recently|last|latest|most recent|newest) : word max
Late <- (first|earliest|longest ago) : word min
BestRows <- Superlative Rows : best
BestRows <- Rows {WITHMOST} Peak [number of] Col : best(superlative_of($2, $1), $0)
BestRows <- (which|what) [of] Rows (is|was|are|has been) Superlative : best/10
BestRows <- (which|what) [of] Rows Earn Much : best(superlative_of($1, $2), $0)
BestRows <- Rows [that|who|which] Earn Much : best(superlative_of($1, $2), $0)
BestRows <- [who is] (top|highest|best) earner [Post] : top_earner
BestRows <- who Earn Much [Post] : best_of_all(superlative_of($0, $1), $2)
BestRows <- who (is|was) Late Rows [to be|to get|who was|that was] Dated [Post] : best(superlative_of($2, $0), restrict($1, $3))
BestRows <- who (is|was) Superlative [Post] : best_of_all
BestRows <- [who is|what is|which is|which|what] Ordinal Superlative Rows : nth_row
BestRows <- who (has|had|gets|earns|receives|draws|got) Ordinal Peak Col [Post] : nth_row($0, superlative_of($2, $1), $3)
BestRows <- who (has|had|gets|earns|receives|draws|got) Peak Col [Post] : best_of_all(superlative_of($1, $0), $2)
BestRows <- who [was|is|has been] Dated Late [Post] : best_of_all(superlative_of($0, $1), $2)
BestRows <- who [was] Late to be Dated : best_of_all(superlative_of($1, $0))
BestRows <- [which|what] Rows [was|were|is|that was|who was|has been] Dated Late : best(superlative_of($1, $2), $0)
BestRows <- Late Dated Rows : best(superlative_of($1, $0), $2)
Top <- [who|what|which] [is|are|was|were] BestRows : names
Top <- [what is|who is|tell me] name of BestRows : names
Cell <- Col of [one|a|an] Value Days : cell_when
Cell <- Value 's Col Days : cell_when/102
Cell <- Col of BestRows : cells
Cell <- BestRows 's Col : cells/10
Cell <- BestRows Col : cells/10 !
Top <- how many more Rows than Rows ({THERE}|{OURS}) : more_rows
Top <- how many more Rows (are there|do we have|have we got|exist) than Rows : more_rows
Top <- how many more Rows ({LINK}|{LIVE}|{BE}|are there|) InVals than InVals : more_rows(restrict($0, $1), restrict($0, $2))
Top <- how many (fewer|less) Rows ({LINK}|{LIVE}|{BE}|are there|) InVals than InVals : more_rows(restrict($0, $2), restrict($0, $1))
Top <- how many (fewer|less) Rows than Rows ({THERE}|{OURS}) : more_rows/10
Func <- difference between number of Rows and number of Rows : more_rows
Top <- (who|what|which) [is|are] Number Superlative Rows : top_rows
Top <- [list|show|give me|name] [names of] Number Superlative Rows : top_rows
Top <- [list|show|give me|name] [names of] top Number Superlative Rows : top_rows !
Top <- (which|what) Rows VP : list_names
Top <- [which|what] Rows : list_names !
Top <- who VP : with_people_names
Top <- [list|show|give me|name] [names of] Number Rows {WITHMOST} Peak Col : top_rows($0, superlative_of($3, $2), $1)
Top <- (which|what) Number Rows (have|had) Peak Col : top_rows($0, superlative_of($3, $2), $1)
Top <- (list|show|name|give me) [me] [names of] [all] Rows : list_names
Top <- (what are|who are) Rows (that|who|which) VP : list_names
Top <- [what are] names of Rows : list_names
Top <- (which|what) [different] Col (are there|do we have|exist|are in database) : list_values
Top <- [list|show|name|give me] [me] all Col : list_values !

Top <- Fold Col {PER} Col : group_aggregate($1, $2, $0)
Top <- (number|count) of Rows {PER} Col : group_count
Top <- {HOWMANY} Rows [are there|do we have|work|live] {PER} Col : group_count
Top <- Rows {PER} Col : group_count !
Agg <- {HOWMANY} Rows [are there|do we have|work|live] {PER} Col on average : group_mean
Agg <- on average [,] {HOWMANY} Rows (are there|do we have|work|live|) {PER} Col : group_mean
Agg <- {AVG} number of Rows {PER} Col : group_mean
Most <- (most|highest number of|largest number of|greatest number of) : word max
Most <- (fewest|least|lowest number of|smallest number of) : word min
Top <- (which|what) Col [has|have|had|with|contains|is home to|employs|placed|made|submitted|has placed|has made|sent|bought|took out|received] Most Rows : best_group_count($0, $2, $1)
Top <- (which|what) Col (do|does|did) Most Rows (work|live|reside|sit) [in|at] : best_group_count($0, $2, $1)
Top <- (in which|in what) Col (do|does|did) most Rows (work|live|reside|sit) : best_group_count max
Top <- (which|what) Table [has|have|with|wrote|made] Most Rows : best_group_linked($0, $2, $1)
Top <- (which|what) Col (has|have|with|pays|had) Extreme Mean Col : best_group_aggregate($0, $3, $2, $1)
Top <- (which|what) Col (has|have|with|pays|had) Extreme total Col : best_group_aggregate($0, $2, sum, $1)
More2 <- (more|higher|larger|greater) : word max
More2 <- (less|fewer|lower|smaller) : word min
Compared <- More : superlative_of max
Compared <- Less : superlative_of min
Top <- who Earn More2 [,|:] Value or Value : compared_rows(superlative_of($0, $1), $2, $3)
Top <- who Earn (More2|Much) [,|:] Value , Value or Value : compared_rows(superlative_of($0, $1), $2, $3, $4)
Top <- (who|which [one]) is Compared [,|:] Value or Value : compared_rows
Top <- (who|which [one]) has More2 Col [,|:] Value or Value : compared_rows(superlative_of($1, $0), $2, $3)
Top <- how much more (does|do|is) Value Earn than Value : row_difference/102
Top <- by how much does Col of Value exceed that of Value : row_difference
Top <- how much (higher|more|greater|larger) is Col of Value than that of Value : row_difference
Top <- how much (higher|more|greater|larger) is Value 's Col than Value ['s] : row_difference($1, $0, $2)
Agg <- {AVG} [of] Col of Value and Value : op(op(as_number(cell($0, $1)), as_number(cell($0, $2)), +), #2, /)
Top <- [what is] (gap|difference) between Value 's and Value 's Col : row_difference/201
Top <- [what is] (gap|difference) between Col of Value and [that of] Value : row_difference
Top <- how much less (does|do) Value Earn than Value : row_difference/120
Top <- how much More is Value than Value : row_difference
Top <- how much More is Value than Value in Col : row_difference_in
Top <- how much Less is Value than Value : row_difference/021
Top <- (does|do) Value Earn more than Value : yesno(as_number(cell($1, $0)), as_number(cell($1, $2)), >)
Top <- (does|do) Value Earn less than Value : yesno(as_number(cell($1, $0)), as_number(cell($1, $2)), <)
Top <- (does|do|did) Value have (more|higher|larger|greater) Col than Value : yesno(as_number(cell($1, $0)), as_number(cell($1, $2)), >)
Top <- (does|do|did) Value have (less|fewer|lower|smaller) Col than Value : yesno(as_number(cell($1, $0)), as_number(cell($1, $2)), <)
Top <- how (many|much) more Col (does|do|did) Value have than Value : row_difference
Top <- how (many|much) (less|fewer) Col (does|do|did) Value have than Value : row_difference/021
Top <- is Value More than Value : yesno(as_number(cell($1, $0)), as_number(cell($1, $2)), >)
Top <- is Value Less than Value : yesno(as_number(cell($1, $0)), as_number(cell($1, $2)), <)
Top <- (does|did) Value {LINKB} InVals : row_meets
Top <- (is|was) Value (in|from|based in|located in) Vals : row_meets
Top <- (does|did) Value Earn NumB : row_meets($0, measured($1, $2))
Top <- (was|did) Value Dated Days : row_meets($0, dated($1, $2))
"""

LOOKUPS = """
FMAX = highest temperature|maximum temperature|max temperature|high|high temperature|top temperature|peak temperature|daytime high|daily high|temperature high|hottest temperature|warmest temperature|maximum|daily maximum|highest temperatures|tmax|daily maximum temperature|day 's high
FMIN = lowest temperature|minimum temperature|min temperature|low|low temperature|bottom temperature|overnight low|nightly low|daily low|coldest temperature|coolest temperature|minimum|daily minimum|lowest temperatures|tmin|daily minimum temperature|night temperature
FRAIN = rainfall|rain|precipitation|amount of rain|amount of rainfall|amount of precipitation|total rainfall|rain total|quantity of rain|rainfall total
FWIND = wind speed|wind|windspeed|wind strength|strength of wind|speed of wind|maximum wind speed|strongest wind|highest wind speed|top wind speed|wind velocity|peak wind speed|maximum wind|wind force in km/h
Field <- {FMAX} : word tmax
Field <- {FMIN} : word tmin
Field <- {FRAIN} : word rain
Field <- {FWIND} : word wind
AT = in|at|for|of|over|recorded in|measured in|reached in|registered in
Spot <- Place
Spot <- Unknown : any_place
On <- [on|for|of|,|during day of] DateX
Wea <- Field {AT} Spot On : weather
Wea <- Field On {AT} Spot : weather/021
Wea <- Spot ['s] Field On : weather/102
Wea <- On Field {AT} Spot : weather/120 !
Wea <- [what was] weather (in|at) Spot On [:|,] [what (was|is)] Field : weather/201
Wea <- Spot weather On [:|,] [what (was|is)] Field : weather/201
Wea <- Spot On [:|,] Field : weather/201
Feel <- (hot|warm) : word tmax
Feel <- cold : word tmin
Feel <- (windy|breezy) : word wind
Feel <- wet : word rain
Feeling <- (hottest|warmest) : word tmax
Feeling <- (coldest|coolest|lowest) : word tmin
MUCHRAIN = (how much|how many millimetres of|how many millimeters of|how many mm of) (rain|precipitation|rainfall|water)
DIDRAIN = (how much|how many millimetres|how many millimeters|how many mm) did it rain
FELL = fell|was there|were there|came down|was recorded|were recorded|was measured|were measured|dropped|was registered|did it rain
WINDY = what was wind like | how strong a wind (blew|was there|was blowing) | how (strong|fast|hard) (were gusts|were winds|was wind|were wind|was winds|was it blowing|did wind blow|did wind get)
Wea <- how Feel (was it|did it get|did it become|did day get|did night get|did temperature get) (in|at) Spot On : weather
Wea <- how Feel (was it|did it get) On (in|at) Spot : weather/021
Wea <- how Feel (was Spot|did Spot get) On : weather
Wea <- On [,] how Feel (was it in Spot|did it get in Spot|did Spot get|was Spot) : weather/120
Wea <- what was Feeling it got (in|at) Spot On : weather
Wea <- On [,] what was Feeling it got (in|at) Spot : weather/120
Wea <- how high did (temperature|temperatures|thermometer|mercury) (climb|rise|go|get|reach) (in|at) Spot On : weather(tmax, $0, $1)
Wea <- how low did (temperature|temperatures|thermometer|mercury) (drop|fall|go|get|sink|reach) (in|at) Spot On : weather(tmin, $0, $1)
Wea <- what Field did thermometer reach in Spot On : weather
Wea <- (what|which) Field did Spot [have|reach|see|record|get|receive|climb to|get to|drop to|fall to|sink to] On : weather
Wea <- (what|which) Field (was|did) (reached|measured|recorded) (in|at) Spot On : weather
Wea <- (what|which) (rain|rainfall|precipitation) fell in Spot On : weather(rain, $0, $1)
Wea <- did it rain in Spot On [,] and how much : weather(rain, $0, $1)
Wea <- {DIDRAIN} (in|at) Spot On : weather(rain, $0, $1)
Wea <- ({DIDRAIN}|{MUCHRAIN} {FELL}) On (in|at) Spot : weather(rain, $1, $0)
Wea <- {MUCHRAIN} {FELL} (in|at|on|over) Spot On : weather(rain, $0, $1)
Wea <- {MUCHRAIN} did Spot (get|have|receive|see|record) On : weather(rain, $0, $1)
Wea <- On [,] {MUCHRAIN} did Spot (get|have|receive|see) : weather(rain, $1, $0)
Wea <- {WINDY} (in|at) Spot On : weather(wind, $0, $1)
Atom <- Wea
Top <- Wea
APART = how many degrees|by how many degrees|how much|by how much
Top <- {APART} (warmer|hotter|higher|more) was {FMAX} (in|at) Spot than [it was] [that] (in|at|of) Spot On : weather_apart(tmax, $0, $1, $2)
Top <- {APART} (colder|cooler|lower|less) was {FMAX} (in|at) Spot than [it was] [that] (in|at|of) Spot On : weather_apart(tmax, $0, $1, $2, -)
Top <- {APART} (warmer|hotter|higher|more) was {FMIN} (in|at) Spot than [it was] [that] (in|at|of) Spot On : weather_apart(tmin, $0, $1, $2)
Top <- {APART} (colder|cooler|lower|less) was {FMIN} (in|at) Spot than [it was] [that] (in|at|of) Spot On : weather_apart(tmin, $0, $1, $2, -)
Top <- {APART} (higher|greater|stronger|more) was Field (in|at) Spot than (in|at) Spot On : weather_apart
Top <- {APART} (lower|less|weaker) was Field (in|at) Spot than (in|at) Spot On : weather_apart -
Top <- {APART} (did|does) Field (in|at|of) Spot exceed (that|Field) (in|at|of) Spot On : weather_apart3
Top <- {APART} (warmer|hotter) was [it in|in] Spot than [in|it was in] Spot On : weather_apart(tmax, $0, $1, $2)
Top <- {APART} was [it in|in] Spot (warmer|hotter) than [in|it was in] Spot On : weather_apart(tmax, $0, $1, $2)
Top <- On [,] {APART} (warmer|hotter) was [it in] Spot than [in] Spot : weather_apart(tmax, $1, $2, $0)
Top <- how many degrees (separate|separated|lie between|lay between) {FMAX} (of|in|at) Spot and [of|in] Spot On : weather_apart(tmax, $0, $1, $2)
Top <- how many degrees (separate|separated|lie between|lay between) {FMIN} (of|in|at) Spot and [of|in] Spot On : weather_apart(tmin, $0, $1, $2)
Top <- [what is|what was] gap between Field (of|in|at) Spot and [of|in] Spot On : weather_apart
Top <- how much more (rain|precipitation) (fell|was there) (in|at) Spot than (in|at) Spot On : weather_apart(rain, $0, $1, $2)
Top <- how much more (rain|precipitation) did Spot (get|have|receive|see) than Spot On : weather_apart(rain, $0, $1, $2)
Top <- how much (windier) was [it in] Spot than [in] Spot On : weather_apart(wind, $0, $1, $2)
Top <- [signed] difference (between|in) Field (between|in|of|at) Spot and [in|at|of] Spot On : weather_apart
Top <- [signed] difference between Field (in|of|at) Spot and [that|Field] [in|of|at] Spot On : weather_apart3
Top <- Field (in|at) Spot On minus [that|Field] (in|at|of) Spot : weather_minus
Top <- On [,] {APART} (warmer|hotter|higher) was {FMAX} (in|at) Spot than (in|at) Spot : weather_apart(tmax, $1, $2, $0)
Top <- was it (warmer|hotter) in Spot or [in] Spot On : which_place(tmax, $0, $1, $2, max)
Top <- was it (colder|cooler) in Spot or [in] Spot On : which_place(tmax, $0, $1, $2, min)
Top <- (which|what) [town|place|city|one] was (windier) [on|,] On [,|:] Spot or Spot : which_place(wind, $1, $2, $0, max)
Top <- {APART} (warmer|hotter) was [it in|it at] Spot On than [it was] On2 : apart_days(tmax, $0, $1, $2)
Top <- {APART} (colder|cooler) was [it in|it at] Spot On than [it was] On2 : apart_days(tmax, $0, $1, $2, -)
Top <- {APART} was [it in|it at] Spot (warmer|hotter) On than [it was] On2 : apart_days(tmax, $0, $1, $2)
Top <- {APART} more (rain|rainfall) (fell|was there) in Spot On than On2 : apart_days(rain, $0, $1, $2)
On2 <- On
Top <- [what is|what was] (difference|gap|range|spread) between {FMAX} and {FMIN} (in|at|of|for) Spot On : weather_spread
Wea <- total {FRAIN} {AT} Spot [over|in|for|during] Range : weather_total
Wea <- how much (rain|precipitation) (fell|was there|came down) [in total] in Spot [in total] Range [in total] : weather_total
Top <- [what is|what was] difference between (highest and lowest|maximum and minimum|high and low|max and min|minimum and maximum|lowest and highest|min and max) (temperature|temperatures) (in|at|of|for) Spot On : weather_spread
Top <- [what is|what was] (temperature range|range of temperatures|range of temperature|spread of temperatures) (in|at|of|for) Spot On : weather_spread
Top <- did it rain (in|at) Spot On : rained
Top <- was it (warmer|hotter) (in|at) Spot On than [it was] On2 : yesno(weather(tmax, $0, $1), weather(tmax, $0, $2), >)
Top <- was it (warmer|hotter) On (in|at) Spot than [it was] (in|at) Spot : yesno(weather(tmax, $1, $0), weather(tmax, $2, $0), >)
Top <- was it (warmer|hotter) (in|at) Spot than [it was] (in|at) Spot On : yesno(weather(tmax, $0, $2), weather(tmax, $1, $2), >)
Top <- was there [any] rain (in|at) Spot On : rained

Atom <- Fact : fact
Top <- Fact : fact_text
Top <- how many years ago (was|did|were) Event : years_ago
Top <- Event how many years ago : years_ago
Top <- Event [in] (which|what) year : number
Top <- EventDay (when|on what date|on which date|on what day) : date_asked
Top <- how long ago [,] in years [,] (was|did) Event : years_ago
Top <- it is how many years since Event : years_ago
Top <- how many years (have gone by|have passed|is it|has it been|are there) since Event : years_ago
Top <- in Unit [,] Fact2 : in_unit/10
Fact2 <- Fact : fact
Fact2 <- Wea
Fact2 <- Open Fact : fact
Top <- how many years (ago is it that|is it now since|since) Event : years_ago
Top <- how long ago (was|did) Event [in years] : years_ago
Top <- how old is Title [now|today] : title_age
Top <- how old (was|would|will) Title [be] in Year [be] : title_age
Top <- [what is] age of Title [in years] : title_age
Top <- how many years after Event (was|did) Event : op(number($1), number($0), -)
Top <- how many years before Event (was|did) Event : op(number($0), number($1), -)
Top <- how many years after Title (was|did) Event : years_after_same
DateX <- EventDay
Top <- how many Dur ago (was|did|were) EventDay : since
Comp <- (higher|taller) : comparative high +1
Comp <- longer : comparative long +1
Comp <- deeper : comparative deep +1
Comp <- wider : comparative wide +1
Comp <- (larger|bigger) : comparative large +1
Comp <- heavier : comparative heavy +1
Comp <- lower : comparative high -1
Comp <- shorter : comparative long -1
Comp <- shallower : comparative deep -1
Comp <- narrower : comparative wide -1
Comp <- smaller : comparative large -1
Comp <- lighter : comparative heavy -1
Top <- [by] how much Comp is Title than Title : titles_apart
Top <- [by] how many Unit Comp is Title than Title : titles_apart/1230
Top <- [by] how many Unit is Title Comp than Title : titles_apart/2130
Top <- [by] how much is Title Comp than Title : titles_apart/102
Top <- how much Comp is Title than Title in Unit : titles_apart
Top <- is Title Comp than Title : title_more
Size <- (depth|deepness) : word deep
Size <- (height|altitude|elevation) : word high
Size <- length : word long
Size <- width : word wide
Top <- [what is] difference (in|of) Size (between|of) Title and Title : titles_difference
Top <- [what is] difference between Size of Title and [that of] Title : titles_difference
Top <- how many times Comp is Title (than|as) Title : titles_ratio
Top <- how many times as (high|tall) is Title as Title : titles_ratio(comparative(high, +1), $0, $1)
Top <- how many times as long is Title as Title : titles_ratio(comparative(long, +1), $0, $1)
TOTALS = (add|add up|sum|sum up|total up|total|combined|joint|sum of)
Top <- {TOTALS} (length|lengths) of Title and Title [together] : titles_sum long
Top <- {TOTALS} (height|heights) of Title and Title [together] : titles_sum high
Top <- (which|what) [one] is Comp [,|:] Title or Title : which_title
Top <- (which|what) of Title and Title is Comp : which_title/201
"""
