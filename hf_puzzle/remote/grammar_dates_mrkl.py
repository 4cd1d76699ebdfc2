"""The part of the grammar that is about the calendar: days, spans, periods and times of day; see `grammar_mrkl`."""

# one day, a span, or a period, whatever is asked of it; `dates_mrkl.parse_date` reads these alone
DAYS = """
DateX <- Date
DateX <- (Day|Ordinal) [of] Month [of|,] Year : ymd
DateX <- Month (Day|Ordinal) [,] Year : ymd/102
DateX <- Weekday [,] DateX : checked_weekday
DateX <- (today|now) : near 0
DateX <- tomorrow : near 1
DateX <- yesterday : near -1
DateX <- day after tomorrow : near 2
DateX <- day before yesterday : near -2
DateX <- (coming|following|upcoming) Weekday : weekday_beside($0, near(0), 1)
DateX <- next Weekday : weekday_coming
DateX <- (last|past|previous) Weekday : weekday_beside($0, near(0), -1)
DateX <- this [coming|upcoming] Weekday : weekday_beside($0, near(-1), 1)
DateX <- Holiday [,|of|in] Year : holiday
DateX <- Holiday [of|in] NearPeriod : holiday_near
DateX <- Weekday (after|following) DateX : weekday_beside 1
DateX <- Weekday (before|preceding) DateX : weekday_beside -1
DateX <- Ordinal of NearPeriod : nth_day
DateX <- Ordinal Weekday (of|in) Period : nth_weekday
DateX <- last Weekday (of|in) Period : nth_weekday(last, $0, $1)
DateX <- (first day (of|in)|start of|beginning of) Period : edge_of first
DateX <- (last day (of|in)|end of) Period : edge_of last
DateX <- (Ordinal day (of|in)|(day|day number) Integer of) Period : nth_day
Way <- (after|from|past|following|later than|beyond|onwards from|ahead of|on from|forward from|ahead from|forwards from) : word +
Way <- (before|prior to|earlier than|preceding|previous to|back from|off from) : word -
Turn <- (forward|forwards|ahead|on|further) : word +
Turn <- (back|backward|backwards) : word -
Then <- (later|on|ahead|after) : word +
Then <- earlier : word -
GO = go|going|move|moving|count|counting|jump|step
DateX <- Span Way Anchor : shifted($0, $2, $1)
DateX <- {GO} Span Turn from Anchor : shifted($0, $2, $1)
DateX <- {GO} Turn Span from Anchor : shifted($1, $2, $0)
DateX <- day Way Anchor : shifted(span(#1, day), $1, $0)
DateX <- Span (hence|in future|ahead) : shifted($0, near(0), +)
DateX <- Span (ago|back|in past) : shifted($0, near(0), -)
DateX <- (in|within) Span [time] [from (now|today)] : shifted($0, near(0), +)
DateX <- Anchor (plus|+) Span : shifted/10 +
DateX <- Anchor (minus|-) Span : shifted/10 -
DateX <- Anchor , Span later : shifted/10 +
DateX <- (starting|counting|beginning) (from|at|on) Anchor , [what date] Span Then : shifted($1, $0, $2)
DateX <- (add|adding) Span (to|onto) Anchor : shifted +
DateX <- (take|subtract|deduct|subtracting) Span ([away] from|off) Anchor : shifted -
Anchor <- DateX
WORKING = business day|business days|working day|working days|trading day|trading days|weekday|weekdays|workday|workdays
Span <- Number CalUnit : span
Span <- (a|an|one) CalUnit : span(#1, $0)
Span <- Number [of] a CalUnit : span
Span <- Number ({WORKING}) : business_span
Span <- (a|one) ({WORKING}) : business_span(#1)
Span <- a CalUnit and a half : span(#3/2, $0)
Span <- Span [and|,|, and] Span : spans
Period <- Month [of|,] Year : month_of
Period <- [year] Year : year_of
Period <- NearPeriod
NearPeriod <- this CalUnit : near_period 0
NearPeriod <- (last|previous|past) CalUnit : near_period -1
NearPeriod <- (next|following|coming) CalUnit : near_period 1
Period <- last Month : month_near -1
Period <- next Month : month_near 1
Period <- this Month : month_of
Period <- Ordinal quarter [of|in] [Year] : quarter_of
Period <- (q|quarter) Integer [of|in] [Year] : quarter_of
Period <- Year s : decade_of
TILL = to|until|till|through|thru|up to
Range <- (between DateX and|from DateX {TILL}) DateX : date_range
Range <- (between Period and|from Period {TILL}) Period : from_to
Range <- (between|from) (Day|Ordinal) (to|until|till|through|and) DateX : days_of
Range <- (between Month and|from Month {TILL}) Month [of|,] Year : from_to(month_of($0, $2), month_of($1, $2))
"""

# the same where a question leaves the year or the day to the reference date, and what is asked
DATES = """
DateX <- (Day|Ordinal) [of] Month : ymd
DateX <- Month (Day|Ordinal) : ymd/102
DateX <- Holiday : holiday
Period <- Month : month_of
Period <- CalUnit : near_period 0 !
Anchor <- Weekday : weekday_beside($0, near(0), 1)

WAS = is|was|are|were|will be|would be|is it|was it|will it be|falls on|fell on|do we have|is that|lies|comes|do you get|do you get if you|do we reach|is reached|do we get|do you reach|if you|would it be
WHATDATE = what date|which date|what calendar date|which calendar date|what day and month|on what date|on which date|what day of calendar|what day of month
Top <- [what is|what was|give me|tell me|find|calculate] [({WHATDATE}|date)] DateX : date_asked
Top <- {WHATDATE} ({WAS}) [it] [on] DateX : date_asked
Top <- {WHATDATE} ({WAS}) [it] [on] Weekday : date_asked(weekday_beside($0, near(0), 1))
Top <- {WHATDATE} (falls|occurs|do i get|results|will be reached) DateX : date_asked
Top <- DateX (is what date|is which date|was what date|was which date|what date is it|what date is that|what is date|what date was it|what date will it be) : date_asked
Top <- {WHATDATE} precedes Anchor by Span : date_asked(shifted($1, $0, -))
Top <- {WHATDATE} follows Anchor by Span : date_asked(shifted($1, $0, +))
Top <- if Span (pass|go by|elapse) (after|from) Anchor [,] (what is date|what date is it|which date is it) : date_asked(shifted($0, $1, +))
Top <- (starting|counting) (from|at|on) Anchor [,] {WHATDATE} (is it|was it|will it be|is|was) Span later : date_asked(shifted($1, $0, +))
Top <- (starting|counting) (from|at|on) Anchor [,] {WHATDATE} (is it|was it|will it be|is|was) Span earlier : date_asked(shifted($1, $0, -))
Top <- [what is|what was|what will be|tell me|give me] date (of|on|for|is|was|is it|was it|will it be|it was|it will be|that is|that was|that falls|be|if you|that lies) DateX : date_asked
Top <- what will (date be|be date) DateX : date_asked
Top <- what is [today] 's date : date_asked(near(0))
Top <- what is date [today] : date_asked(near(0))
Top <- what is date on Weekday : date_asked(weekday_beside($0, near(0), 1))
Top <- (what|which) date is [it] today : date_asked(near(0))
Top <- when (is|was|will be|is it|was it|will it be) DateX : date_asked
Top <- if [you] DateX [,] {WHATDATE} (is it|do you get|is that) : date_asked
Top <- what date (do you get|do i get|will it be|would it be|is it) (if|when) [you|i|we] DateX : date_asked
WEEKDAY = what day of week|which day of week|what weekday|which weekday|day of week|weekday|on what day of week|on which day of week|on what weekday|on which weekday|on which day|name of weekday
Top <- [what is|what was|tell me|give me|find] ({WEEKDAY}) ({WAS}) [it] [on] DateX : weekday_of
Top <- [what is|what was|tell me|give me|find] ({WEEKDAY}) (of|for|on) DateX : weekday_of
Top <- ({WEEKDAY}) (does|did|will|would) DateX (fall|fall on|be|land|land on|happen|occur|lie) [on] : weekday_of
Top <- [what is|what was|tell me] ({WEEKDAY}) DateX (is|was|falls on|fell on|will be|fell|falls) : weekday_of
Top <- [tell me|what is] ({WEEKDAY}) (it is|it was|it will be) [on] DateX : weekday_of
Top <- (what day|which day|on what day) (is|was|will be|is it|was it|will it be|would be|would it be) [on] DateX : day_asked
Top <- (what|which) day (comes|lies|falls|do you get|do we get) DateX : date_asked
Top <- DateX on (which|what) (weekday|day of week|day) : weekday_of
Top <- ({WEEKDAY}) DateX : weekday_of
Top <- DateX [:|,] (which day of week|what day of week|which weekday|what weekday) : weekday_of
Top <- DateX (is|was|fell on|falls on|falls|fell|will be|will be on) [on] (which|what) (day of week|weekday|day) : weekday_of
Top <- (is|was|did|will|does) DateX [fall|be|land] [on] [a] Weekday [,] or (which|what) (weekday|day|day of week) (is it|was it|will it be) : weekday_of/0
Top <- (name|find out) ({WEEKDAY}) (of|for|on) DateX : weekday_of
Top <- [what is|tell me|give me|what was] DateX 's date : date_asked
Top <- find out ({WEEKDAY}) DateX (was|is) : weekday_of
Top <- {WHATDATE} ({WAS}|comes|lies) DateX [,] and (which|what) (weekday|day of week|day) (is|was|will) (it|that) [be] : date_and_weekday
OLD = full years old|years old|whole years old|complete years old
Top <- {SOMEONE} (born|who was born) on DateX is how many [full] years old [today|now] : between(year, $0, near(0))
Top <- how many {OLD} is {SOMEONE} (with birthday|born on|whose birthday is|with date of birth) DateX : between(year, $0, near(0))
Top <- (what|which) age (is|has) {SOMEONE} (born|born on|who was born on|whose date of birth is|whose birthday is|with date of birth|whose birth date is) DateX : between(year, $0, near(0))
Top <- age in years of {SOMEONE} (born|born on) DateX : between(year, $0, near(0))
Top <- {SOMEONE} was born on DateX . how old are they [now|today] : between(year, $0, near(0))
SOMEONE = someone|somebody|a person|a man|a woman|anyone|a child|a baby|a kid|a person|a girl|a boy|a dog|a cat|he|she
UNTIL = until|till|to|before|up to
MANYT = how many|number of|how much|amount of|what is number of|what number of|count
AREIT = |lies|do i count|does it take to get|separate|separating|elapse|does it take|are we|are there|is it|are|were there|is there|were|have passed|passed|have gone by|have elapsed|elapsed|lie|lay|will pass|do we have|is the distance|did pass|went by|there are|pass
Top <- ({MANYT}) Dur ({AREIT}) (between|from) DateX (and|to|until|till|up to|through) DateX : between
Top <- ({MANYT}) (full|whole|complete|completed) Dur ({AREIT}) (between|from) DateX (and|to|until|till|up to) DateX : between full
Top <- ({MANYT}) Dur (separate|separating) DateX (from|and) DateX : between
Top <- ({MANYT}) Dur apart are DateX and DateX : between
Top <- (between|from) DateX (and|to|until) DateX [,] (how many|is how many|are how many) Dur [pass|are there|lie|elapse|is that|is it] : between/201
Top <- [what is] (gap|difference|distance|time) in Dur between DateX and DateX : between
Top <- how long is it in Dur from DateX to DateX : between
Top <- (count|work out|find) Dur (from|between) DateX (to|and|until) DateX : between !
Top <- ({MANYT}) Dur (is|was) DateX (after|later than) DateX : between/021
Top <- ({MANYT}) Dur (is|was|before) DateX (before|earlier than) DateX : between
Top <- ({MANYT}) Dur (after|later than|past) DateX (is|was|comes|lies) DateX : between
Top <- ({MANYT}) Dur (before|earlier than|ahead of) DateX (is|was|comes|lies) DateX : between/021
Top <- ({MANYT}) Dur [is it] from DateX back to DateX : between/021
Top <- ({MANYT}) Dur ({AREIT}|left|remain|are left|remaining|do i have|do we have|do i have left) ({UNTIL}) DateX : until
Top <- Dur (until|till) DateX : until
Top <- how long (is it|) ({UNTIL}) DateX in Dur : until/10
Top <- how long (is it|was it|) (between|from) DateX (and|to|until) DateX in Dur : between/201
Top <- in how many Dur (is|will it be|do we have|comes) DateX : until
Top <- ({MANYT}) Dur away is DateX : until
Top <- ({MANYT}) Dur ({AREIT}|has it been|is it|have gone|ago was|ago is|have we had) since DateX : since
Top <- [({MANYT})] (full|whole|complete|completed) Dur ({AREIT}|has it been|is it) since DateX : since
Top <- ({MANYT}) Dur ago (was|is) DateX : since
Top <- Dur since DateX : since
Top <- ({MANYT}) Dur (are there in|are in|in|does|did|has|had|is) Period [have|has|long] : between_period
Top <- length of Period in Dur : between_period/10
Top <- Dur (left|remaining) in Period : left_in
Top <- ({MANYT}) Dur does Month have in Year : between_period($0, month_of($1, $2))
Top <- ({MANYT}) Dur (are there in|are in|in) Month in Year : between_period($0, month_of($1, $2))
Top <- (on what date|when|what date|on which date) (will|would|did|do|does) {WHOEVER} (be|turn|become) Number [years old] [,] (if|when) [{WHOEVER}] [was|were|is] born [on] DateX : date_asked(shifted(span($0, year), $1, +))
Top <- if [{WHOEVER}] [was|were|is] born [on] DateX [,] (on what date|when|what date|on which date) (will|would|did|do|does) {WHOEVER} (be|turn|become) Number [years old] : date_asked(shifted(span($1, year), $0, +))
WHOEVER = i|he|she|someone|somebody|they|you|a person
Top <- ({MANYT}) Dur (are left in|remain in|are remaining in|left in|are there left in|are still left in) Period : left_in
Top <- ({MANYT}) days [,] (both|both days|both dates|first and last day|ends|endpoints|start and end|start and end date) (included|inclusive|counted) [,] from DateX (to|until|through) DateX : op(between(day, $0, $1), #1, +)
Top <- ({MANYT}) days ({AREIT}) (from|between) DateX (to|until|through|and) DateX [,] (inclusive|both included|both days included|inclusively|both inclusive|including both|including both days) : op(between(day, $0, $1), #1, +)
Top <- ({MANYT}) nights ({AREIT}) (from|between) DateX (to|until|and) DateX : between(day, $0, $1)
Top <- ({MANYT}) ({WORKING}) ({AREIT}) (from|between) DateX (to|until|and|through) DateX : business_between
Top <- ({MANYT}) ({WORKING}) ({AREIT}) (from|between) DateX (to|until|and|through) DateX [,] (inclusive|both included|inclusively|both inclusive) : business_between inclusive
Top <- ({MANYT}) ({WORKING}) (are there in|are in|in|does|did) Period [have] : business_in
Top <- ({MANYT}) Weekday ({AREIT}) (from|between) DateX (to|until|and|through) DateX [inclusive] : count_weekday
Top <- ({MANYT}) Weekday (are there in|are in|in|does|did) Period [have] : count_weekday($0, edge_of($1, first), edge_of($1, last))
Top <- how old (is|are|would be|will be) {SOMEONE} (born|who was born|that was born|whose birthday is|with birthday|with birth date|with date of birth|if born) [on] DateX [today|now|be today] : between(year, $0, near(0))
Top <- how old (would|will) {SOMEONE} (born|who was born) [on] DateX be [today|now] : between(year, $0, near(0))
Top <- how old (is|was|will be|would be) {SOMEONE} (born|who was born) [on] DateX (on|by|as of) DateX : between(year, $0, $1)
Top <- [what is] age of {SOMEONE} (born|who was born) [on] DateX : between(year, $0, near(0))
Top <- i was born [on] DateX [.|,|;] [and] how old am i [today|now] : between(year, $0, near(0))
Top <- (he|she) was born [on] DateX [.|,|;] [and] how old is (he|she) [today|now] : between(year, $0, near(0))
Top <- if i was born [on] DateX [,] how old am i [today|now] : between(year, $0, near(0))
Top <- if {SOMEONE} (was|is) born on DateX [,] how old (is|are|would|will) (he|she|they|that person) [be] [now|today] : between(year, $0, near(0))
Top <- how old (will|would|was|were) {WHOEVER} [be] (on|in) DateX [,] (if|when|given) [{WHOEVER}] (was|were|is|am) born [on] DateX : between(year, $1, $0)
Top <- born [on] DateX [,] (age|how old|what age|what is age) : between(year, $0, near(0))
Top <- (which|what) quarter (is|does|was) DateX (in|fall in|belong to|fall into) : quarter_number
Top <- (in which|in what) quarter (is|does|was|did) DateX [fall|lie|be] : quarter_number
Top <- [what is] (day number|day of year|ordinal day|number of day) (of|for) DateX [(in|of|within) (year|Period)] : day_number
Top <- (is|was|will) [year] Year [be] a leap year : leap
Top <- (which|what) month (comes|is) after Period : month_after 1
Top <- (which|what) month (comes|is) before Period : month_after -1
Time <- Clock
Time <- (Number|Clock) (am|a . m) : clock am
Time <- (Number|Clock) (pm|p . m) : clock pm
Top <- ({MANYT}) Unit ({AREIT}) (between|from) Time (and|to|until|till) Time : clock_between
Top <- how long is it (between|from) Time (and|to|until) Time in Unit : clock_between/201
Top <- (a|) Noun ships on DateX and takes Span . when does it arrive : date_asked(shifted($2, $1, +))
Top <- [what is] Span in Dur : span_value
Top <- how many Dur (is|are|are in|are there in|in|make up|make) Span : span_value/10
Dur <- CalUnit
Dur <- Unit
"""
